"""Subject, Stage and Run: what a trainer offers. Everything beyond `Run.step` and `Run.batches` is optional.

A capability is optional: a check that lacks one is *not applicable* and says which line of adapter would enable it.
This module imports torch for types only, so that the command line and the pytest plugin stay light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Batch = Any
Objective = Literal["value", "tokens"]


@dataclass(frozen=True)
class Tokens:
    """What a batch says of its tokens.

    Args:
        token_BS: Long[B, S].
        valid_BS: Bool[B, S], True = real token.
        document_BS: Long[B, S] where rows are packed, else None.
    """

    token_BS: Tensor
    valid_BS: Tensor
    document_BS: Tensor | None = None


class Run:
    """One live training run of one stage, fresh from its seed. Adapters subclass it.

    Attributes:
        modules: the stage's modules by name. A module that the stage trains is here, a frozen one may be.
        optimizers: what the stage steps; empty hides the optimizer state from checks that compare it.
        logits_from: name in `modules` of the module whose output is logits [B, S, H, V]; None where there is none.
        max_norm: the norm at which the step clips its gradients; None where it does not.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Sequence[torch.optim.Optimizer] = ()
    logits_from: str | None = None
    max_norm: float | None = None

    def batches(self) -> Iterator[Batch]:
        """Training batches in the run's own order, without an end. Required. A batch is never changed by a step."""
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

    def tokens(self, batch: Batch) -> Tokens:
        """The batch's tokens, mask and documents."""
        raise NotImplementedError

    def valid(self, batch: Batch) -> Tensor:
        """Bool[B, S], True where the batch has a real token. Where there is `tokens`, it says so already."""
        return self.tokens(batch).valid_BS

    def pad(self, batch: Batch, count: int) -> Batch:
        """The same rows with `count` more positions of padding on the right."""
        raise NotImplementedError

    def select_rows(self, batch: Batch, index: Sequence[int]) -> Batch:
        """The batch of these rows of `batch`, in this order; a row may come twice. `batch` stays as it is."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write everything that a later `load` needs to go on bit for bit, under the folder `path`."""
        raise NotImplementedError

    def load(self, path: Path) -> None:
        """Bring back what `save` wrote, into this fresh run. Afterwards `batches()` goes on where it was."""
        raise NotImplementedError


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
    """

    curve: tuple[float, ...]
    epochs: int | None = None
    prediction_N: Tensor | None = None
    target_N: Tensor | None = None
    position_N: Tensor | None = None
    score_R: Tensor | None = None
    right_R: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """One stage of a trainer.

    Args:
        name: as reports show it.
        start: `start(seed, *, dtype=torch.float32, device="cpu") -> Run`, small enough for a step to take milliseconds,
            deterministic in its seed, with at least two heads and two positions where it has any. float64 must work.
        fit: `fit(seed, *, device="cpu") -> Fit`, the whole run on the trainer's own small corpus; None: no such.
        objective: what it learns, "value" or "tokens"; None: neither.
        edges: name of a loss term to the names of the modules that it trains, all of them; None: not declared. Terms
            that are left out are not looked at.
    """

    name: str
    start: Callable[..., Run]
    fit: Callable[..., Fit] | None = None
    objective: Objective | None = None
    edges: Mapping[str, Sequence[str]] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class Functions:
    """The trainer's own formulas for weighted multi-token prediction. None: it has no such function.

    Args:
        labels: `(token_BS, valid_BS, horizon, document_BS=None) -> label_BSH`, -100 where nothing is to be predicted.
        weights: `(value_BS, label_BSH, valid_BS, *, discount_lambda, temperature, document_BS=None) -> weight_BSH`.
        loss: `(logits_BSHV, label_BSH, weight_BSH) -> scalar`.
        returns: `(reward_BS, value_BS, valid_BS, *, gamma, gae_lambda, document_BS=None) -> return_BS`.
        place_rewards: `(reward_B, valid_BS, placement, document_BS=None) -> reward_BS`, "terminal" or "uniform".
    """

    labels: Callable[..., Tensor] | None = None
    weights: Callable[..., Tensor] | None = None
    loss: Callable[..., Tensor] | None = None
    returns: Callable[..., Tensor] | None = None
    place_rewards: Callable[..., Tensor] | None = None


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
        source: the folder of the trainer's source, for locations and planted faults.
        import_effects: what importing and building it changed in the process, seen by `load_target`; not for adapters.
    """

    name: str
    stages: Sequence[Stage]
    functions: Functions = field(default_factory=Functions)
    corpus: Callable[[int], Corpus] | None = None
    expected: Mapping[str, str] = field(default_factory=dict)
    source: Path | None = None
    import_effects: tuple[str, ...] = ()

    CAPABILITIES: ClassVar[Mapping[str, str]] = {
        "losses": "write `Run.losses(batch)`: the loss terms by name as scalars on the graph, `total` among them",
        "tokens": "write `Run.tokens(batch)`: return gradgate.Tokens(token_BS, valid_BS)",
        "rows": "write `Run.select_rows(batch, index)`: return the batch of these rows, in this order",
        "valid": "write `Run.valid(batch)`: Bool[B, S], True = real token; or write `Run.tokens(batch)`",
        "pad": "write `Run.pad(batch, count)`: return the batch with `count` more positions of padding on the right",
        "max_norm": "set `Run.max_norm` to the norm at which the step clips its gradients",
        "edges": "give the stage `edges=`: the name of each loss term -> the names in `modules` of what it trains",
        "save": "write `Run.save(path)` and `Run.load(path)`",
        "logits": "set `Run.logits_from` to the name in `modules` of the module that returns logits [B, S, H, V]",
        "optimizers": "set `Run.optimizers` to the optimizers that the step steps",
        "fit": "give the stage `fit=`: a function that trains it to the end and returns gradgate.Fit",
        "corpus": "give the subject `corpus=`: a function that returns gradgate.Corpus",
        "functions.labels": "give the subject `functions=gradgate.Functions(labels=...)`",
        "functions.weights": "give the subject `functions=gradgate.Functions(weights=...)`",
        "functions.loss": "give the subject `functions=gradgate.Functions(loss=...)`",
        "functions.returns": "give the subject `functions=gradgate.Functions(returns=...)`",
        "functions.place_rewards": "give the subject `functions=gradgate.Functions(place_rewards=...)`",
    }


@dataclass(frozen=True)
class Context:
    """What the runner hands to a check beside the subject.

    Args:
        seed: every random choice of the check derives from it.
        profile: quick, pr or nightly: how much work a check may do.
        device: where runs are started, "cpu" or "cuda".
        folder: an empty folder of the check's own, removed afterwards.
    """

    seed: int = 0
    profile: Literal["quick", "pr", "nightly"] = "quick"
    device: str = "cpu"
    folder: Path = Path()
