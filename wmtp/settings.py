"""What can be set: the config says where a run happens, the recipe what is run. Every key does something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Place = Annotated[str, Field(pattern=r"^[^\x00]+$", description="a path")]
MaybePlace = Annotated[str | None, Field(pattern=r"^[^\x00]+$", description="a path")]
Steps = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Parallel = Literal["ddp", "fsdp2"]
Dropout = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Section(BaseModel):
    """Unknown keys are refused, types are strict (a boolean is no number), and a section never changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Paths(Section):
    """Where things are read and written.

    Attributes:
        output: folder of the run; `{name}` stands for the recipe's `run.name`.
        value_head: a value head of an earlier Stage 1 to start Stage 2 from.
        reward_model: what `critic.reward: model` loads, a file of `wmtp.rewards.reward_model` or a Hugging Face folder.
        reference: a model of an earlier run that `critic.reward: reference` measures with.
    """

    output: Place = "runs/{name}"
    value_head: MaybePlace = None
    reward_model: MaybePlace = None
    reference: MaybePlace = None


class Checkpointing(Section):
    """How often the run is saved (steps) and how many checkpoints stay."""

    every: Count = 100
    keep: Count = 2


class SandboxLimits(Section):
    """Limits for programs under test.

    Attributes:
        workers: how many run side by side.
        seconds: processor time of each; on the clock it may take five times as long.
        memory_mib: address space of each; an interpreter alone takes some 40 MiB.
    """

    workers: Count = 2
    # MBPP's slowest program that ends takes 3.7 s of a 2.8 GHz core: one near the limit is rewarded by chance.
    seconds: Rate = 10.0
    memory_mib: Annotated[int, Field(ge=64)] = 512


class Tracking(Section):
    """Where metrics go beside the JSONL file; both need the extra `gradgate[tracking]`.

    Attributes:
        tensorboard: write event files into the run's folder.
        mlflow: tracking URI, such as `sqlite:///mlflow.db`.
    """

    tensorboard: bool = False
    mlflow: str | None = None


class Distributed(Section):
    """How several processes train together, under torchrun.

    Attributes:
        parallel: replicas of the model (DDP), or shards of it (FSDP2).
        timeout: seconds after which a process that does not answer ends the job; running the programs' tests on the
            leading process counts too.
    """

    parallel: Parallel = "ddp"
    timeout: Rate = 600.0


class Config(Section):
    """Where a run happens.

    Attributes:
        seed: every random choice derives from it.
        device: auto takes CUDA where there is one.
        precision: of the forward pass (autocast); parameters stay float32; fp16 brings a gradient scaler.
        threads: torch's CPU threads; None leaves torch's own choice.
        compile: run the model through torch.compile.
        recompute: activation checkpointing: trade a second forward of each block for its memory.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    compile: bool = False
    recompute: bool = False
    paths: Paths = Paths()
    checkpoint: Checkpointing = Checkpointing()
    sandbox: SandboxLimits = SandboxLimits()
    tracking: Tracking = Tracking()
    distributed: Distributed = Distributed()


class RunSection(Section):
    """The run's name: it names the output folder."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", description="letters, digits, '_', '-' and '.'")] = "run"


class DataSection(Section):
    """What is learned from.

    Attributes:
        path: JSONL (MBPP's fields, HumanEval's, prompt and completion, or text) or plain text; None: embedded corpus.
        format: of the rows; auto decides from the first.
        tokenizer: "bytes" or a folder with a Hugging Face tokenizer.
        train_on: whether prompt tokens are labels too.
        max_length: S; longer rows are cut, at least 2.
        batch_size: B, rows a micro-batch, of all processes together.
        heldout_fraction: share of the tasks kept for evaluation.
        packing: put several short rows into one of S positions, each a document of its own.
        damaged_copies: how many damaged copies of each solution join the rows, so that a verifiable reward has both
            outcomes.
        rows: at most so many rows of the file are read; None: all.
        tasks: size of the embedded corpus.
    """

    path: MaybePlace = None
    format: Literal["auto", "mbpp", "humaneval", "prompt_completion", "text"] = "auto"
    tokenizer: Place = "bytes"
    train_on: Literal["all", "completion"] = "all"
    max_length: Annotated[int, Field(ge=2)] = 128
    batch_size: Count = 16
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    packing: bool = False
    damaged_copies: Steps = 0
    rows: Count | None = None
    tasks: Annotated[int, Field(ge=2)] = 256


class ModelSection(Section):
    """The trunk and what stands on it.

    Attributes:
        hf: folder of a Hugging Face causal language model to use as trunk; None: our own tiny transformer.
        width: D of our own trunk.
        layers: its blocks.
        attention_heads: A; D / A must be even.
        dropout: of our own trunk.
        tie_embeddings: the heads' unembedding is the trunk's embedding.
    """

    hf: MaybePlace = None
    width: Annotated[int, Field(ge=2)] = 64
    layers: Count = 2
    attention_heads: Count = 4
    dropout: Dropout = 0.0
    tie_embeddings: bool = False

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelSection:
        if self.width % (2 * self.attention_heads):
            raise ValueError(
                f"width {self.width} must be a multiple of twice attention_heads ({2 * self.attention_heads}): "
                "rotary positions turn pairs of features of each attention head"
            )
        return self


class PretrainSection(Section):
    """Stage 1, value-head pretraining.

    Attributes:
        trunk_steps: steps of uniform multi-token prediction that warm up the trunk first.
        num_epochs: passes over the training rows; 0 leaves Stage 1 out.
        max_steps: a total over all epochs; None: no bound.
        lr: AdamW's learning rate for the value head.
        patience: stop after so many epochs without a better held-out value loss; None: never.
    """

    trunk_steps: Steps = 0
    num_epochs: Steps = 3
    max_steps: Count | None = None
    lr: Rate = 1.0e-3
    patience: Count | None = None


class TrainSection(Section):
    """Stage 2, main training.

    Attributes:
        horizon: H, how many tokens ahead are predicted at once.
        max_steps: optimizer steps.
        accumulation_steps: micro-batches a step.
        eval_every: steps between evaluations on the held-out rows.
        patience: stop after so many evaluations without a better held-out cross-entropy; None: never.
    """

    horizon: Count = 4
    max_steps: Count = 300
    accumulation_steps: Count = 1
    eval_every: Count = 50
    patience: Count | None = None


class OptimSection(Section):
    """AdamW, its schedule and its clipping; for the trunk's warm-up and Stage 2.

    Attributes:
        lr: peak learning rate of trunk and heads.
        betas: AdamW's two decay rates.
        weight_decay: of matrices; norms and biases have none.
        grad_clip: bound on the gradient's norm; None: no clipping.
        schedule: after warm-up: stay, fall along a cosine, or fall in a line, to `final_ratio`.
        warmup_steps: steps of linear warm-up.
        final_ratio: share of the peak that is left at the last step.
    """

    lr: Rate = 3.0e-3
    betas: tuple[Dropout, Dropout] = (0.9, 0.95)
    weight_decay: NonNegative = 0.01
    grad_clip: Rate | None = 1.0
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_steps: Steps = 10
    final_ratio: Fraction = 0.1


class LossSection(Section):
    """How heads are weighted.

    Attributes:
        weighting: by the critic, or uniformly over the valid heads (the control group).
        weight_temperature: τ of the softmax over heads.
        weight_gradient: whether the token loss may train the value head through the weights.
    """

    weighting: Literal["critic", "uniform"] = "critic"
    weight_temperature: Rate = 0.7
    weight_gradient: Literal["detach", "through"] = "detach"


class CriticSection(Section):
    """Rewards, returns and the value head.

    Attributes:
        reward: a reward model, running the tests, or a frozen reference's cross-entropy.
        reward_placement: on the last real token, or in equal shares on all.
        discount_lambda: λ of the delta.
        gamma: γ of the returns.
        gae_lambda: λ of the returns.
        auxiliary_loss_coef: share of the value loss in Stage 2's loss.
        value_lr: Stage 2's learning rate for the value head.
        value_gradient_to_trunk: whether the value head may train the trunk.
    """

    reward: Literal["model", "verifiable", "reference"] = "verifiable"
    reward_placement: Literal["terminal", "uniform"] = "terminal"
    discount_lambda: Fraction = 0.95
    gamma: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    auxiliary_loss_coef: NonNegative = 0.1
    value_lr: Rate = 1.0e-3
    value_gradient_to_trunk: bool = False


class Recipe(Section):
    """What is run."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    pretrain: PretrainSection = PretrainSection()
    train: TrainSection = TrainSection()
    optim: OptimSection = OptimSection()
    loss: LossSection = LossSection()
    critic: CriticSection = CriticSection()

    def output_folder(self, config: Config) -> Path:
        """The run's folder."""
        return Path(config.paths.output.replace("{name}", self.run.name))
