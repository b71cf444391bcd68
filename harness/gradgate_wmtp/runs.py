"""Live runs of both stages, small."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad

import wmtp
from gradgate.checks.cases import Case
from gradgate.checks.row_sources import documents
from gradgate.subjects.contract import Placed, Run, Tokens
from gradgate.subjects.schedule import Schedule
from gradgate_wmtp.small import SMALL, settings, small_trainer
from wmtp import checkpoint
from wmtp.data.batches import Batch
from wmtp.labels import IGNORE
from wmtp.loading import load_settings
from wmtp.loop import LoopState
from wmtp.loss import predicting
from wmtp.metrics import MetricsFile
from wmtp.processes import ALONE, Processes
from wmtp.progress import quiet
from wmtp.resume import find_checkpoint, load_run, save_run
from wmtp.rewards.reference import reference_rewards
from wmtp.rewards.reward_model import RewardModel, model_rewards
from wmtp.settings import Parallel
from wmtp.stage1 import FeatureBatch, Features, join_rows, to_device
from wmtp.stages import Stage1, Stage2, build_stage
from wmtp.trainer import Trainer, build

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


STEPS_BEFORE = 8  # so that checkpoints of steps 9 and 10 lie side by side


class WmtpRun(Run):
    """One stage of the trainer, on a few short rows of the embedded corpus."""

    stage_name: ClassVar[str]
    schedule_counts = "updates"

    def __init__(
        self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu", precision: str = "fp32",
        options: Mapping[str, Any] | None = None, parallel: Parallel | None = None,
    ) -> None:  # fmt: skip
        self.dtype = dtype
        moved = [f"{key}={value}" for key, value in (options or {}).items()]
        if (options or {}).get("data.packing") == "true":
            moved.append("data.max_length=104")  # room for two rows
        given = settings(seed, device, *SMALL, f"precision={precision}", *moved)
        processes = ALONE if parallel is None else Processes(dist.get_rank(), dist.get_world_size(), parallel)
        self.open(small_trainer(*given, processes), LoopState(self.stage_name, step=STEPS_BEFORE))

    def open(self, trainer: Trainer, at: LoopState, work: Any = None) -> None:
        """Take a trainer at a point of its loop, with its stage where that was built already."""
        trainer.model.to(self.dtype)
        self.trainer, self.at = trainer, at
        self.work = work or build_stage(self.stage_name, trainer)
        self.optimizers = [self.work.update.optimizer]
        self.max_norm = trainer.recipe.optim.grad_clip
        self.updates = self.work.total_steps
        self.epoch_size = trainer.collator.order.size
        self.modules = self.parts()

    def parts(self) -> Mapping[str, nn.Module]:
        """The modules that the stage trains."""
        raise NotImplementedError

    def batches(self) -> Iterator[Any]:
        """What the loop would hand to the stage, from where the run is."""
        while True:
            batch, self.at.position = self.work.batch_at(self.at.position)
            yield batch

    def step(self, batch: Any) -> Mapping[str, float]:
        """The stage's real step."""
        self.at.step += 1
        metrics = self.work.stage.step(batch)
        self.at.worse += 1  # as if the first step had been evaluated best, so that a load has to bring both back
        self.at.best = metrics["loss"] if self.at.best is None else self.at.best
        return {name: value for name, value in metrics.items() if value is not None}

    def hyperparameters(self, update: int) -> Mapping[str, Mapping[str, Any]]:
        """AdamW as the recipe describes it: decay for matrices alone, a rate a module, a share of it by the step."""
        optim, schedules = self.trainer.recipe.optim, self.schedules()
        return {
            f"{name}.{key}": {
                "lr": schedules[name](update),
                "weight_decay": optim.weight_decay if parameter.dim() > 1 else 0.0,
                "betas": optim.betas,
                "eps": 1e-8,  # Kingma and Ba 2015, algorithm 1; no key of the recipe
            }
            for name, module in self.parts().items()
            for key, parameter in module.named_parameters()
        }

    def schedules(self) -> Mapping[str, Schedule]:
        """The rate of each module."""
        raise NotImplementedError

    def evaluate(self) -> Mapping[str, Any]:
        """The stage's evaluation on the held-out rows."""
        return self.work.evaluate()[0]

    def value_targets(self, reward_B: Tensor, value_BS: Tensor, valid_BS: Tensor) -> Tensor:
        """What the stage's own loss records, with these values in the value head's place."""
        reward_BS = wmtp.place_rewards(reward_B, valid_BS, self.trainer.recipe.critic.reward_placement)
        record: dict[str, Tensor] = {}
        handle = self.trainer.model.value_head.register_forward_hook(lambda *_: value_BS)
        try:
            self.record_loss(reward_BS, valid_BS, record)
        finally:
            handle.remove()
        return record["return_BS"]

    def record_loss(self, reward_BS: Tensor, valid_BS: Tensor, record: dict[str, Tensor]) -> None:
        """Compute the stage's loss on rows of nothing, with these rewards, and keep the tensors on the way."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """The trainer's own checkpoint, in a run's folder."""
        paths = self.trainer.config.paths.model_copy(update={"output": str(path)})
        config = self.trainer.config.model_copy(update={"paths": paths})
        metrics = MetricsFile(path / "metrics.jsonl")
        try:
            save_run(dataclasses.replace(self.trainer, config=config), self.work, self.at, metrics)
        finally:
            metrics.close()

    def load(self, path: Path) -> None:
        """The trainer's own resume: settings, seed included, come from the checkpoint."""
        file = find_checkpoint(path)
        saved = checkpoint.load(file)
        given = load_settings(None, None, saved=(saved["config"], saved["recipe"]))
        trainer = build(*given, quiet(), self.trainer.processes)
        trainer.model.to(self.dtype)
        start = load_run(file, trainer)
        self.open(trainer, start.at, start.work)


class Stage1Run(WmtpRun):
    """Value-head pretraining: the trunk is frozen, so the value head is all there is."""

    stage_name = "stage1"
    work: Stage1

    def parts(self) -> Mapping[str, nn.Module]:
        """The value head."""
        return {"value_head": self.trainer.model.value_head}

    def schedules(self) -> Mapping[str, Schedule]:
        """Value-head pretraining keeps its rate."""
        return {"value_head": Schedule(self.trainer.recipe.pretrain.lr)}

    def samples(self, batch: FeatureBatch) -> list[bytes]:
        """The features, to four decimals: how many rows a process computes at a time shows in the last bits."""
        pairs = zip(batch.hidden_BSD.round(decimals=4) + 0.0, batch.valid_BS, strict=True)
        return [hidden_SD[valid_S].cpu().numpy().tobytes() for hidden_SD, valid_S in pairs if valid_S.any()]

    def heldout(self) -> list[bytes]:
        """The features of held-out rows."""
        return self.samples(join_rows(self.work.heldout))

    def placed(self, batch: FeatureBatch) -> Placed:
        """What collator and trunk have made of rewards; a row's own is looked up by its features."""
        trainer = self.trainer
        reward_N = [trainer.collator.reward_N[pack[0].index] for pack in trainer.data.train]
        reward = dict(zip(self.samples(join_rows(self.work.features)), reward_N, strict=True))
        reward_B = torch.stack([reward[sample] for sample in self.samples(batch)])
        return Placed(batch.reward_BS, reward_B, batch.valid_BS, trainer.recipe.critic.reward_placement)

    def losses(self, batch: FeatureBatch) -> Mapping[str, Tensor]:
        """The value loss."""
        loss = self.work.stage.loss(batch)
        return {"total": loss, "value_loss": loss}

    def of_size(self, rows: int, length: int) -> FeatureBatch:
        """Random features, all real."""
        valid_BS = torch.ones(rows, length, dtype=torch.bool)
        hidden_BSD = torch.randn(rows, length, self.trainer.recipe.model.width, dtype=self.dtype)
        reward_BS = wmtp.place_rewards(torch.rand(rows), valid_BS, self.trainer.recipe.critic.reward_placement)
        document_BS = torch.zeros_like(valid_BS, dtype=torch.long)
        return FeatureBatch(hidden_BSD, reward_BS, valid_BS, document_BS, tokens=rows * length)

    def record_loss(self, reward_BS: Tensor, valid_BS: Tensor, record: dict[str, Tensor]) -> None:
        """Features of zeros."""
        hidden_BSD = torch.zeros(*valid_BS.shape, self.trainer.recipe.model.width, dtype=self.dtype)
        document_BS = torch.zeros_like(valid_BS, dtype=torch.long)
        batch = FeatureBatch(hidden_BSD, reward_BS, valid_BS, document_BS, tokens=int(valid_BS.sum()))
        self.work.stage.loss(to_device(batch, self.trainer.device), record)

    def select_rows(self, batch: FeatureBatch, index: Sequence[int]) -> FeatureBatch:
        """The features of these rows."""
        columns = (batch.hidden_BSD, batch.reward_BS, batch.valid_BS, batch.document_BS)
        features = [Features(*(column[b] for column in columns)) for b in index]
        return join_rows(features)

    def valid(self, batch: FeatureBatch) -> Tensor:
        """The real tokens of the features."""
        return batch.valid_BS

    def pad(self, batch: FeatureBatch, count: int) -> FeatureBatch:
        """Features of nothing behind the rows."""
        return dataclasses.replace(
            batch,
            hidden_BSD=pad(batch.hidden_BSD, (0, 0, 0, count)),
            reward_BS=pad(batch.reward_BS, (0, count)),
            valid_BS=pad(batch.valid_BS, (0, count)),
            document_BS=pad(batch.document_BS, (0, count)),
        )


class Stage2Run(WmtpRun):
    """Main training of trunk, heads and value head."""

    stage_name = "stage2"
    work: Stage2
    logits_from = "heads"

    def open(self, trainer: Trainer, at: LoopState, work: Any = None) -> None:
        """With what ends a row, and how long it may be."""
        super().open(trainer, at, work)
        self.end_token, self.max_length = trainer.data.tokenizer.eos_id, trainer.recipe.data.max_length
        self.cuts = "end"
        self.coefficients = {"wmtp_loss": 1.0}
        if not trainer.uniform:
            self.coefficients["value_loss"] = trainer.recipe.critic.auxiliary_loss_coef

    def parts(self) -> Mapping[str, nn.Module]:
        """Trunk, heads and value head."""
        model = self.trainer.model
        return {"trunk": model.trunk, "heads": model.heads, "value_head": model.value_head}

    def schedules(self) -> Mapping[str, Schedule]:
        """Trunk and heads have one peak, the value head another."""
        optim, steps = self.trainer.recipe.optim, self.trainer.recipe.train.max_steps
        peaks = {"trunk": optim.lr, "heads": optim.lr, "value_head": self.trainer.recipe.critic.value_lr}
        return {
            name: Schedule(peak, steps, optim.warmup_steps, optim.schedule, optim.final_ratio)
            for name, peak in peaks.items()
        }

    def samples(self, batch: tuple[Batch, ...]) -> list[tuple[int, ...]]:
        """The rows' own tokens."""
        return [row for part in batch for row in rows_of(part)]

    def sources(self) -> list[tuple[int, ...]]:
        """Begin, the bytes of each training row's text, end."""
        data = self.trainer.data
        begin, end = ([] if token is None else [token] for token in (data.tokenizer.bos_id, data.tokenizer.eos_id))
        heldout = {row.task_id for row in data.heldout}
        examples = [example for example in data.examples if example.task_id not in heldout]
        return [(*begin, *example.text.encode(), *end) for example in examples]

    def supervised(self, batch: tuple[Batch, ...]) -> Tensor:
        """All real tokens, or those of completions; how long a row's prompt is the data says."""
        tokens = self.tokens(batch)
        if self.trainer.recipe.data.train_on == "all":
            return tokens.valid_BS
        longest, data = self.trainer.recipe.data.max_length, self.trainer.data
        begin = int(data.tokenizer.bos_id is not None)
        prompts = {e.text.encode()[: longest - begin]: begin + len(e.prompt.encode()) for e in data.examples}
        found_BS = torch.zeros_like(tokens.valid_BS)
        for b, document in documents(tokens):
            text = bytes(token for token in tokens.token_BS[b, document].tolist() if token < 256)
            found_BS[b, document[prompts.get(text, 0) :]] = True
        return found_BS

    def heldout(self) -> list[tuple[int, ...]]:
        """The tokens of held-out rows."""
        return [row for part in self.work.heldout for row in rows_of(part)]

    def losses(self, batch: tuple[Batch, ...]) -> Mapping[str, Tensor]:
        """The token loss, the value loss and their sum."""
        terms = self.work.stage.losses(batch[0].to(self.trainer.device))
        value_loss = {} if terms.value_loss is None else {"value_loss": terms.value_loss}
        return {"total": terms.total, "wmtp_loss": terms.wmtp_loss} | value_loss

    def weights(self, batch: tuple[Batch, ...]) -> Tensor:
        """Of the first micro-batch."""
        record: dict[str, Tensor] = {}
        self.work.stage.losses(batch[0].to(self.trainer.device), record=record)
        return record["weight_BSH"]

    def strategy(self) -> SearchStrategy[tuple[Batch, ...]]:
        """A few short rows with any mask, packed or not, and rewards on any token."""
        from hypothesis.strategies import just  # comes with the extra [test]

        from gradgate.strategies import token_batches

        drawn = token_batches(
            vocabulary=self.trainer.data.tokenizer.vocab_size, horizons=just(self.trainer.recipe.train.horizon),
            dtypes=just(self.dtype),
        )  # fmt: skip
        return drawn.map(as_batch)

    def select_rows(self, batch: tuple[Batch, ...], index: Sequence[int]) -> tuple[Batch, ...]:
        """These rows of the only micro-batch, counted anew."""
        whole, at = batch[0], list(index)
        document_BS = None if whole.document_BS is None else whole.document_BS[at]
        columns = (whole.token_BS[at], whole.valid_BS[at], whole.label_BSH[at], whole.reward_BS[at])
        return (micro_batch(*columns, document_BS, whole.plain),)

    def pad(self, batch: tuple[Batch, ...], count: int) -> tuple[Batch, ...]:
        """Token 0, no label and no reward behind the rows of the only micro-batch."""
        whole = batch[0]
        padded = dataclasses.replace(
            whole,
            token_BS=pad(whole.token_BS, (0, count)),
            valid_BS=pad(whole.valid_BS, (0, count)),
            label_BSH=pad(whole.label_BSH, (0, 0, 0, count), value=IGNORE),
            reward_BS=pad(whole.reward_BS, (0, count)),
            document_BS=None if whole.document_BS is None else pad(whole.document_BS, (0, count), value=-1),
        )
        return (padded,)

    def of_size(self, rows: int, length: int) -> tuple[Batch, ...]:
        """Random tokens, all real and all labelled."""
        recipe = self.trainer.recipe
        valid_BS = torch.ones(rows, length, dtype=torch.bool)
        token_BS = torch.randint(self.trainer.data.tokenizer.vocab_size, (rows, length))
        label_BSH = wmtp.make_labels(token_BS, valid_BS, recipe.train.horizon)
        reward_BS = wmtp.place_rewards(torch.rand(rows), valid_BS, recipe.critic.reward_placement)
        positions, labels = int(predicting(label_BSH).sum()), int((label_BSH != IGNORE).sum())
        batch = Batch(
            token_BS, valid_BS, label_BSH, reward_BS, None, True, positions, tokens=rows * length, labels=labels
        )
        return (batch,)

    def record_loss(self, reward_BS: Tensor, valid_BS: Tensor, record: dict[str, Tensor]) -> None:
        """Tokens of zeros, without a label."""
        label_BSH = torch.full((*valid_BS.shape, self.trainer.recipe.train.horizon), IGNORE)
        token_BS = torch.zeros_like(valid_BS, dtype=torch.long)
        count = int(valid_BS.sum())
        batch = Batch(token_BS, valid_BS, label_BSH, reward_BS, None, False, positions=0, tokens=count, labels=0)
        self.work.stage.losses(batch.to(self.trainer.device), record=record)

    def placed(self, batch: tuple[Batch, ...]) -> Placed:
        """The rewards of the rows with these tokens, as they were computed before anything was collated."""
        whole, collator = batch[0], self.trainer.collator
        reward = {row.token: collator.reward_N[row.index] for pack in self.trainer.data.train for row in pack}
        document_BS = torch.zeros_like(whole.token_BS) if whole.document_BS is None else whole.document_BS
        count = int(document_BS.max()) + 1
        reward_BD = torch.zeros(len(document_BS), count)
        for b, d in torch.cartesian_prod(torch.arange(len(document_BS)), torch.arange(count)).tolist():
            token = tuple(whole.token_BS[b, whole.valid_BS[b] & (document_BS[b] == d)].tolist())
            reward_BD[b, d] = reward[token] if token else 0.0
        placement = self.trainer.recipe.critic.reward_placement
        return Placed(whole.reward_BS, reward_BD, whole.valid_BS, placement, document_BS)

    def rewards(self, batch: tuple[Batch, ...]) -> Mapping[str, Tensor]:
        """A reward model with dropout, and this model as the reference, by the trainer's own functions."""
        trainer = self.trainer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trainer.config.seed)
            shape = {"width": 16, "layers": 1, "attention_heads": 2, "dropout": 0.1}
            model = RewardModel(trainer.data.tokenizer.vocab_size, **shape)
        return {
            "model": model_rewards(model, batch, trainer.device),
            "reference": reference_rewards(trainer.model, batch, trainer.device),
        }

    def window(self, parts: Sequence[tuple[Batch, ...]]) -> tuple[Batch, ...]:
        """A batch is a window of micro-batches already."""
        return tuple(micro for part in parts for micro in part)

    def tokens(self, batch: tuple[Batch, ...]) -> Tokens:
        """The first micro-batch's tokens; there is only one."""
        return Tokens(batch[0].token_BS, batch[0].valid_BS, batch[0].document_BS)


def micro_batch(
    token_BS: Tensor, valid_BS: Tensor, label_BSH: Tensor, reward_BS: Tensor, document_BS: Tensor | None, plain: bool
) -> Batch:
    """A micro-batch of these tensors, with what the collator counts on the host."""
    return Batch(
        token_BS, valid_BS, label_BSH, reward_BS, document_BS, plain,
        positions=int(predicting(label_BSH).sum()),
        tokens=int(valid_BS.sum()),
        labels=int((label_BSH != IGNORE).sum()),
    )  # fmt: skip


def as_batch(case: Case) -> tuple[Batch, ...]:
    """A drawn batch as the stage takes it: the trainer's own labels, and the attention's mask always built."""
    label_BSH = wmtp.make_labels(case.token_BS, case.valid_BS, case.horizon, document_BS=case.document_BS)
    return (micro_batch(case.token_BS, case.valid_BS, label_BSH, case.reward_BS, case.document_BS, False),)


def rows_of(batch: Batch) -> list[tuple[int, ...]]:
    """The tokens of each row, without padding; a row of nothing is that of a process without rows."""
    pairs = zip(batch.token_BS, batch.valid_BS, strict=True)
    return [tuple(token_S[valid_S].tolist()) for token_S, valid_S in pairs if valid_S.any()]
