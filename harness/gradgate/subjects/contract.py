"""Subject, Stage and Run: what a trainer offers. Everything beyond `Run.step` and `Run.batches` is optional.

A capability is optional: a check that lacks one is *not applicable* and says which line of adapter would enable it.
This module imports torch for types only, so that the command line and the pytest plugin stay light.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gradgate.subjects.schedule import ByParameter

if TYPE_CHECKING:
    import torch
    from hypothesis.strategies import SearchStrategy
    from torch import Tensor, nn

    from gradgate.core.comparison import Comparison
    from gradgate.subjects.program import Program

Batch = Any
Objective = Literal["value", "tokens"]
_COMPUTES = ("step", "losses", "weights", "evaluate", "rewards", "value_targets", "placed")


@dataclass(frozen=True)
class Tokens:
    """What a batch says of its tokens.

    Args:
        token_BS: Long[B, S].
        valid_BS: Bool[B, S], True = real token.
        document_BS: Long[B, S] where rows are packed, else None.
        clean_BS: Long[B, S], the tokens of the data, which are predicted, where `token_BS` is corrupted (dropped,
            replaced, masked); None: they are the same.
    """

    token_BS: Tensor
    valid_BS: Tensor
    document_BS: Tensor | None = None
    clean_BS: Tensor | None = None

    @property
    def data(self) -> Tensor:
        """Long[B, S], the tokens as the data has them."""
        return self.token_BS if self.clean_BS is None else self.clean_BS


@dataclass(frozen=True)
class Placed:
    """Rewards as a batch has them on its tokens, and what they were to be placed from.

    Args:
        reward_BS: Float[B, S], the batch's own.
        reward_B: Float[B], each row's reward as the data has it, looked up there and not read out of the batch; or
            Float[B, D] where rows are packed, for documents whose ids count from 0.
        valid_BS: Bool[B, S], True = real token.
        placement: "terminal" or "uniform".
        document_BS: Long[B, S] where rows are packed, else None.
    """

    reward_BS: Tensor
    reward_B: Tensor
    valid_BS: Tensor
    placement: str
    document_BS: Tensor | None = None


class Run:
    """One live training run of one stage, fresh from its seed. Adapters subclass it.

    Attributes:
        modules: the stage's modules by name. A module that the stage trains is here, a frozen one may be.
        optimizers: what the stage steps; empty hides the optimizer state from checks that compare it.
        logits_from: name in `modules` of the module whose output is logits [B, S, H, V], or [B, S, V] of one head: the
            tensor, the first of a tuple, or what the output calls `logits`; None where there is none.
        max_norm: the norm at which the step clips its gradients; None where it does not.
        updates: how many updates the schedule is made for; None: it has no end.
        epoch_size: samples that an epoch holds; 0 where there are no epochs.
        shuffles: whether each epoch is to have an order of its own.
        end_token: the token that ends each row, or document where rows are packed; None where there is no such.
        rates: name in `modules` -> its learning rate, a `gradgate.Schedule`, or all that its groups are declared to
            have (`{"lr": 1e-3, "weight_decay": 0.0}`), as `hyperparameters` gives it; what its parameters do not share
            is `gradgate.on_matrices(0.1)` or a `gradgate.by_parameter(...)`; None: not declared.
        schedule_counts: what moves the schedule where a step may skip its update (a gradient is not finite), "updates"
            alone or all "steps"; None: not declared.
        statistics: names of the running statistics of the data that the documentation has (`scale`, `scale.mean`: what
            is reached from the run by that name), which a batch moves before it is measured in them; those that move
            by the batch alone are found without.
        coefficients: by what each term of `losses` enters `total`, from the configuration; None: not declared.
        max_length: tokens at which a row, or document, is cut, so that it may end without `end_token`; None: never.
        formulas: a number of the trainer's (`compute_loss:kl`, `Weighter.temperature:return`: a function, and a local
            variable in its end or what it gives back) -> what the documentation says that it is, as a function of other
            variables there by their names, `self` among them, arguments as the call began; NaN where it says nothing.
        cuts: where a longer one loses tokens, "end" or "front"; None: at either, but all of them at one.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Sequence[torch.optim.Optimizer] = ()
    logits_from: str | None = None
    max_norm: float | None = None
    updates: int | None = None
    epoch_size: int = 0
    shuffles: bool = True
    end_token: int | None = None
    rates: Mapping[str, Any] | None = None
    schedule_counts: Literal["updates", "steps"] | None = None
    max_length: int | None = None
    statistics: Sequence[str] = ()
    cuts: Literal["end", "front"] | None = None
    coefficients: Mapping[str, float] | None = None
    formulas: Mapping[str, Callable[..., Any]] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Let what trains keep float64 in a run of float64, whatever it casts to float32."""
        super().__init_subclass__(**options)
        for name in _COMPUTES:
            method = vars(cls).get(name)
            if isinstance(method, FunctionType) and method is not vars(Run)[name]:
                setattr(cls, name, _keeping_doubles(method))

    def batches(self) -> Iterator[Batch]:
        """Training batches in the run's own order, without an end. A batch is never changed by a step.

        Required, or `strategy`: then they are drawn from it, in one and the same order.
        """
        from gradgate.subjects.drawn import sampled  # imports hypothesis, which few runs need

        return sampled(self.strategy())

    def strategy(self) -> SearchStrategy[Batch]:
        """A hypothesis strategy of batches that `losses` must be able to take; `gradgate.strategies` has the parts.

        Whatever the trainer's data may bring, in the run's dtype and on its device: short rows, padding, gaps, packing.
        """
        raise NotImplementedError

    def step(self, batch: Batch) -> Mapping[str, float]:
        """One whole optimizer step on a batch: the trainer's real one. Required.

        Returns:
            Metrics by name.
        """
        raise NotImplementedError

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Loss terms by name, scalars on the graph; `total` is what the step minimises. Changes no state but RNG."""
        raise NotImplementedError

    def weights(self, batch: Batch) -> Tensor:
        """Float[B, S, H], the head weights that a step on this batch multiplies its losses by, on whatever graph the
        step has them. Changes no state but RNG."""
        raise NotImplementedError

    def tokens(self, batch: Batch) -> Tokens:
        """The batch's tokens, mask and documents."""
        raise NotImplementedError

    def supervised(self, batch: Batch) -> Tensor:
        """Bool[B, S], True at the tokens that the loss is to train on: not padding, not a prompt that is left out."""
        raise NotImplementedError

    def sources(self) -> Iterable[Sequence[int]]:
        """The tokens of each training row (document, where rows are packed), made anew from the data: with what belongs
        in front and behind, and before anything is cut at `max_length`."""
        raise NotImplementedError

    def valid(self, batch: Batch) -> Tensor:
        """Bool[B, S], True where the batch has a real token. Where there is `tokens`, it says so already."""
        return self.tokens(batch).valid_BS

    def rewards(self, batch: Batch) -> Mapping[str, Tensor]:
        """Rewards by name, Float[B] each, one a row: computed anew, the way training computes them."""
        raise NotImplementedError

    def placed(self, batch: Batch) -> Placed:
        """The batch's rewards on tokens, beside the rewards that its rows have in the data."""
        raise NotImplementedError

    def value_targets(self, reward_B: Tensor, value_BS: Tensor, valid_BS: Tensor) -> Tensor:
        """Float[B, S], what the value loss would regress on with one reward a row and these values."""
        raise NotImplementedError

    def pad(self, batch: Batch, count: int) -> Batch:
        """The same rows with `count` more positions of padding: on the right, or where the trainer itself pads."""
        raise NotImplementedError

    def crop(self, batch: Batch, count: int) -> Batch:
        """The first `count` positions of the same rows, labels and all, as if the data had ended there."""
        raise NotImplementedError

    def select_rows(self, batch: Batch, index: Sequence[int]) -> Batch:
        """The batch of these rows of `batch`, in this order; a row may come twice. `batch` stays as it is."""
        raise NotImplementedError

    def samples(self, batch: Batch) -> Sequence[Hashable]:
        """What names each sample of a batch, in order: a number, or the sample's content. `epoch_size` goes with it."""
        raise NotImplementedError

    def heldout(self) -> Iterable[Hashable]:
        """The names of the samples that are kept for evaluation, as `samples` names them."""
        raise NotImplementedError

    def hyperparameters(self, update: int) -> Mapping[str, Mapping[str, Any]]:
        """What each trained parameter, by its name `module.name`, is to be trained with at an update, from 0.

        Write it from the configuration, not from the trainer's code: `lr`, and what else of its group is declared.
        Where a module's parameters all have the same, `rates` says it shorter; a parameter that several of its modules
        have goes by the smallest of them.
        """
        if self.rates is None:
            raise NotImplementedError
        names: dict[nn.Parameter, str] = {}  # one that several modules have goes by the first of them
        for owner, module in self.modules.items():
            for name, parameter in module.named_parameters():
                names.setdefault(parameter, f"{owner}.{name}")
        return {
            names[parameter]: _at(self.rates[owner], update, name, parameter)
            for owner in largest_first({owner: self.modules[owner] for owner in self.rates})
            for name, parameter in self.modules[owner].named_parameters()
            if parameter.requires_grad
        }

    def evaluate(self) -> Mapping[str, Any]:
        """The trainer's own evaluation on held-out data. It leaves the run as it was, the global generators too."""
        raise NotImplementedError

    def window(self, parts: Sequence[Batch]) -> Batch:
        """One batch whose step makes one update from these micro-batches, accumulating their gradients."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write everything that a later `load` needs to go on bit for bit, under the folder `path`."""
        raise NotImplementedError

    def load(self, path: Path) -> None:
        """Bring back what `save` wrote, into this fresh run. Afterwards `batches()` goes on where it was."""
        raise NotImplementedError


def largest_first(modules: Mapping[str, nn.Module]) -> list[str]:
    """Names of modules by their parameters' number, so that of those that share one the smallest comes last."""
    return sorted(modules, key=lambda name: -len(list(modules[name].parameters())))


def _keeping_doubles(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def keeping(run: Run, *args: Any, **options: Any) -> Any:
        from gradgate.subjects import doubles  # imports torch

        doubles.end_backwards()  # of one that raised
        if not doubles.are_double(getattr(run, "modules", {}).values()):
            return method(run, *args, **options)
        with doubles.doubles_kept(made=True):
            given = method(run, *args, **options)
        if method.__name__ == "losses":
            doubles.keep_behind(given)
        return given

    return keeping


def _at(declared: Any, update: int, name: str, parameter: nn.Parameter) -> dict[str, Any]:
    """What a module's parameter is declared to be trained with at an update."""

    def own(value: Any) -> Any:
        return value.choose(name, parameter) if isinstance(value, ByParameter) else value

    found = own(declared)
    settings = {key: own(value) for key, value in (found if isinstance(found, Mapping) else {"lr": found}).items()}
    return {key: value(update) if callable(value) else value for key, value in settings.items()}


@dataclass(frozen=True)
class Fit:
    """What a whole run of a stage on the trainer's own data led to. All held-out, all unweighted.

    Args:
        curve: held-out loss before training and after each evaluation; nats per label (tokens) or squared (value).
        epochs: passes over the training rows, where the stage counts them.
        prediction_N: Float[N] value predictions at held-out real tokens (value stages).
        target_N: Float[N] what they should have been; not computed from the predictions.
        position_N: Long[N] position in its row of each.
        score_R: Float[R] one number a held-out row, higher for rows that the value head thinks right.
        right_R: Bool[R] whether the row is right.
        constant_loss: held-out loss of the best prediction that sees no input: the labels' frequencies (token stages).
        weight_NH: Float[N, H] head weights at held-out positions at which all heads have a label (token stages).
        steps: numbers of every step, in their order, by name: `loss` and `grad_norm` at least, as `step` returns them.
    """

    curve: tuple[float, ...]
    epochs: int | None = None
    prediction_N: Tensor | None = None
    target_N: Tensor | None = None
    position_N: Tensor | None = None
    score_R: Tensor | None = None
    right_R: Tensor | None = None
    constant_loss: float | None = None
    weight_NH: Tensor | None = None
    steps: Mapping[str, Sequence[float]] | None = None


@dataclass(frozen=True)
class Looped:
    """Where a stage's loop ended.

    Args:
        steps: made in all.
        evaluations: made in all.
        last_evaluated: the number of steps made before the last evaluation.
    """

    steps: int
    evaluations: int
    last_evaluated: int


@dataclass(frozen=True)
class Scaling:
    """How a stage's cost may grow along one axis.

    Args:
        start: `start(size, seed, *, device="cpu") -> Run`, a run whose batches all have this size along the axis and
            the same size along every other, without padding.
        smallest: the smallest of the sizes looked at, a power of two; the others are two and four times it.
        exponents: cost -> the exponent that it may grow with at most. Costs: op_count, flops, saved_bytes,
            live_peak_bytes, total_bytes, autograd_nodes, host_syncs, cpu_time. One that is left out is not looked at.
    """

    start: Callable[..., Run]
    smallest: int
    exponents: Mapping[str, float]


@dataclass(frozen=True)
class After:
    """How a stage starts behind another one.

    Args:
        earlier: the `start` of that other stage.
        start: `start(before, folder) -> Run`, this stage as the program starts it where the training of `before`, a run
            of the other stage, ends; what goes through files is written to and read from the folder.
    """

    earlier: Callable[..., Run]
    start: Callable[[Run, Path], Run]


@dataclass(frozen=True)
class Stage:
    """One stage of a trainer.

    Args:
        name: as reports show it.
        start: `start(seed, *, dtype=torch.float32, device="cpu") -> Run`, small enough for a step to take milliseconds,
            deterministic in its seed, with at least two heads and two positions where it has any. float64 must work.
        precisions: what can be run in mixed or low precision: "fp32+bf16" (parameters + autocast), "fp16" (parameters
            alone) and the like -> a function like `start` that starts a run in it.
        options: configuration keys -> two or more values each; where there are any, `start` takes
            `options={key: value}` and moves that key.
        neutral: keys as in `options` that are to change what a step costs and nothing else (activation checkpointing,
            a fused or a compiled form) -> two or more values each.
        distributed: ways to train in several processes, "ddp", "fsdp2" or any name -> a function like `start`, called
            in each process of a gloo group that is there already: the run as that process has it. Its batches are its
            own rows, every process's n-th batch together the n-th batch of `start`'s run; what one saves all can load.
            None: no such.
        fit: `fit(seed, *, device="cpu") -> Fit`, the whole run on the trainer's own small corpus; None: no such.
        objective: what it learns, "value" or "tokens"; None: neither.
        edges: name of a loss term to the names of the modules that it trains, all of them; None: not declared. Terms
            that are left out are not looked at.
        loop: `loop(scores, *, patience, max_steps, eval_every) -> Looped`: the trainer's own loop around steps that do
            nothing, its evaluations replaced by the scores in order, smaller being better, over more epochs than
            one; NotImplementedError for a patience where it has none; None: no such.
        scaling: name of an axis ("S", "B", "H") -> how cost may grow along it; None: not declared.
        after: what it is to start from, where that is what another stage has learnt; None: nothing.
    """

    name: str
    start: Callable[..., Run]
    fit: Callable[..., Fit] | None = None
    objective: Objective | None = None
    edges: Mapping[str, Sequence[str]] | None = field(default=None, hash=False)
    loop: Callable[..., Looped] | None = None
    precisions: Mapping[str, Callable[..., Run]] | None = field(default=None, hash=False)
    options: Mapping[str, Sequence[Any]] | None = field(default=None, hash=False)
    neutral: Mapping[str, Sequence[Any]] | None = field(default=None, hash=False)
    scaling: Mapping[str, Scaling] | None = field(default=None, hash=False)
    distributed: Mapping[str, Callable[..., Run]] | None = field(default=None, hash=False)
    after: After | None = None


@dataclass(frozen=True)
class Functions:
    """The trainer's own formulas for weighted multi-token prediction. None: it has no such function.

    Args:
        labels: `(token_BS, valid_BS, horizon, document_BS=None) -> label_BSH`, -100 where nothing is to be predicted.
        weights: `(value_BS, label_BSH, valid_BS, *, discount_lambda, temperature, document_BS=None) -> weight_BSH`.
        loss: `(logits_BSHV, label_BSH, weight_BSH) -> scalar`.
        value_loss: `(value_BS, return_BS, valid_BS) -> scalar`, the mean squared error over real tokens.
        returns: `(reward_BS, value_BS, valid_BS, *, gamma, gae_lambda, document_BS=None) -> return_BS`.
        place_rewards: `(reward_B, valid_BS, placement, document_BS=None) -> reward_BS`, "terminal" or "uniform";
            NotImplementedError for one that the trainer does not have.
        token_weights: `(score_BS, valid_BS) -> weight_BS`, of a trainer that weighs tokens and not heads: as its loss
            uses them, averaging 1 over real tokens, growing with the score (an advantage, an excess loss).
        gaps: whether masks may have padding between real tokens, as the trainer's data have or not.

    A function is given by name only what it has a parameter for: one without `document_BS` gets no packed rows, and a
    discount (`discount_lambda`, `gamma`, `gae_lambda`) that it has not is 1.
    """

    labels: Callable[..., Tensor] | None = None
    weights: Callable[..., Tensor] | None = None
    loss: Callable[..., Tensor] | None = None
    value_loss: Callable[..., Tensor] | None = None
    returns: Callable[..., Tensor] | None = None
    place_rewards: Callable[..., Tensor] | None = None
    token_weights: Callable[..., Tensor] | None = None
    gaps: bool = False


@dataclass(frozen=True)
class Corpus:
    """Training rows with their rewards and the settings that turn rewards into weights.

    Args:
        token_NS: Long[N, S], padded rows; rows of one task share a prefix.
        valid_NS: Bool[N, S].
        reward_N: Float[N].
        horizon: H.
        reward_placement: "terminal" or "uniform".
        gamma: discount per token of the returns.
        gae_lambda: the returns' lambda.
        discount_lambda: the delta's lambda.
        temperature: of the head weights' softmax.
    """

    token_NS: Tensor
    valid_NS: Tensor
    reward_N: Tensor
    horizon: int
    reward_placement: str
    gamma: float
    gae_lambda: float
    discount_lambda: float
    temperature: float


@dataclass(frozen=True)
class Subject:
    """A trainer, as the catalogue drives it.

    Args:
        name: as reports show it.
        stages: in the order in which they train.
        functions: the trainer's formulas, where it has any of `Functions`.
        corpus: `corpus(seed) -> Corpus`, the rows that the trainer learns from.
        expected: code -> reason of checks that are known to fail; strict, one that passes all the same is a failure.
        program: the trainer as its users start it, all stages in turn, with its logs and checkpoints; None: no such.
        source: the folder of the trainer's source, for locations and planted faults; a text is taken for a path.
        hermetic: the processes that it starts read nothing but its source, so that `gradgate verify --reuse` may tell
            from the files whether they would do the same again.
        import_effects: what importing and building it changed in the process, seen by `load_target`; not for adapters.
    """

    name: str
    stages: Sequence[Stage]
    functions: Functions = field(default_factory=Functions)
    corpus: Callable[[int], Corpus] | None = None
    expected: Mapping[str, str] = field(default_factory=dict)
    source: Path | None = None
    program: Program | None = None
    hermetic: bool = False
    import_effects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Let `source="."` be a path."""
        if self.source is not None:
            object.__setattr__(self, "source", Path(self.source))

    CAPABILITIES: ClassVar[Mapping[str, str]] = {
        "losses": "write `Run.losses(batch)`: the loss terms by name as scalars on the graph, `total` among them",
        "weights": "write `Run.weights(batch)`: Float[B, S, H], the step's own head weights; or set `weights_from`",
        "formulas": "set `Run.formulas`: a place such as 'compute_loss:kl' -> the README's formula of its variables",
        "tokens": "write `Run.tokens(batch)`: return gradgate.Tokens(token_BS, valid_BS)",
        "strategy": "write `Run.strategy()`: a hypothesis strategy of batches; gradgate.strategies has token_batches()",
        "supervised": "write `Run.supervised(batch)`: Bool[B, S], True at the tokens that the loss is to train on",
        "rewards": "write `Run.rewards(batch)`: return rewards by name, Float[B] each, computed as training does",
        "placed": "write `Run.placed(batch)`: return gradgate.Placed, a batch's rewards beside those of its rows",
        "sources": "write `Run.sources()`: the tokens of each training row as the data has them, before they are cut",
        "end_token": "set `Run.end_token` to the token that ends each row, and `Run.max_length` where rows are cut",
        "value_targets": "write `Run.value_targets(reward_B, value_BS, valid_BS)`: what the value loss regresses on",
        "rows": "write `Run.select_rows(batch, index)`: return the batch of these rows, in this order",
        "valid": "write `Run.valid(batch)`: Bool[B, S], True = real token; or write `Run.tokens(batch)`",
        "pad": "write `Run.pad(batch, count)`: return the batch with `count` more positions of padding",
        "crop": "write `Run.crop(batch, count)`: return the batch of the first `count` positions of each row",
        "window": "write `Run.window(parts)`: return one batch whose step accumulates over these micro-batches",
        "max_norm": "set `Run.max_norm` to the norm at which the step clips its gradients",
        "precisions": "give the stage `precisions=`: names such as 'fp32+bf16' (parameters + autocast) -> a `start`",
        "options": "give the stage `options=`: keys -> values, and let `start` take `options={key: value}`",
        "neutral": "give the stage `neutral=`: keys as in `options=` that are to change nothing but cost -> values",
        "distributed": "give the stage `distributed=`: 'ddp' or 'fsdp2' -> a `start` for one process of several",
        "edges": "give the stage `edges=`: the name of each loss term -> the names in `modules` of what it trains",
        "after": "give a stage that starts from what another has learnt `after=gradgate.After(earlier, start)`",
        "scaling": "give the stage `scaling=`: axes such as 'S' -> gradgate.Scaling(start, smallest, exponents)",
        "samples": "write `Run.samples(batch)`: a name for each sample; and set `Run.epoch_size`",
        "heldout": "write `Run.heldout()`: the names of the samples that are kept for evaluation",
        "hyperparameters": "set `Run.rates`: module -> its rate or gradgate.Schedule, from the configuration",
        "loop": "give the stage `loop=`: run its own loop on given scores and return gradgate.Looped",
        "evaluate": "write `Run.evaluate()`: the trainer's own evaluation on held-out data",
        "saved": "write `Run.save(path)`: the trainer's own save, where it can be loaded or not",
        "save": "write `Run.save(path)` and `Run.load(path)`",
        "logits": "set `Run.logits_from` to the name in `modules` of the module that returns logits [B, S, (H,) V]",
        "optimizers": "set `Run.optimizers` to the optimizers that the step steps",
        "fit": "give the stage `fit=`: a function that trains it to the end and returns gradgate.Fit",
        "corpus": "give the subject `corpus=`: a function that returns gradgate.Corpus",
        "program": "give the subject `program=gradgate.Program(gradgate.command('my_project.train', …))`",
        "functions.labels": "give the subject `functions=gradgate.Functions(labels=...)`",
        "functions.weights": "give the subject `functions=gradgate.Functions(weights=...)`",
        "functions.loss": "give the subject `functions=gradgate.Functions(loss=...)`",
        "functions.returns": "give the subject `functions=gradgate.Functions(returns=...)`",
        "functions.place_rewards": "give the subject `functions=gradgate.Functions(place_rewards=...)`",
        "functions.value_loss": "give the subject `functions=gradgate.Functions(value_loss=...)`",
        "functions.token_weights": "give the subject `functions=gradgate.Functions(token_weights=...)`",
    }


@dataclass(frozen=True)
class Context:
    """What the runner hands to a check beside the subject.

    Args:
        seed: every random choice of the check derives from it.
        profile: quick, pr or nightly: how much work a check may do.
        device: where runs are started, "cpu" or "cuda".
        folder: an empty folder of the check's own, removed afterwards.
        baselines: where stored baselines lie; None: nowhere.
        compare: a stage's name to base against head; None: there is no base. Each stage is compared once.
        jobs: processes that the run may use, this one among them; 0 and 1: no other.
    """

    seed: int = 0
    profile: Literal["quick", "pr", "nightly"] = "quick"
    device: str = "cpu"
    folder: Path = Path()
    baselines: Path | None = None
    compare: Callable[[str], Comparison] | None = None
    jobs: int = 0
