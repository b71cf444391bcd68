"""What each kind of fault is called, how grave it is, what follows from it and what to write instead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gradgate.core.finding import SEVERITIES, Finding, Kind, Severity
from gradgate.watch.places import Place, location


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of fault: its rule, and the sentences that go with it."""

    code: str
    name: str
    why: str
    fix: str


ENTRIES: dict[Kind, Entry] = {
    "inplace_saved": Entry(
        "GG101",
        "inplace-on-saved-tensor",
        "backward reads the overwritten numbers: the step crashes, or its gradient is wrong",
        "write to a new tensor: drop the trailing underscore or `out=`, or clone before the write",
    ),
    "optimizer_step_between": Entry(
        "GG102",
        "parameter-changed-before-backward",
        "the pending backward would mix the old activations with the new parameters",
        "run every backward that needs the old parameters before the step, or run the forward again, or detach",
    ),
    "silent_data_write": Entry(
        "GG103",
        "data-write",
        "the write does not move the version, so PyTorch does not notice, and the gradient is silently wrong",
        "write to a new tensor, or do it after backward; never through `.data`",
    ),
    "silent_alias_write": Entry(
        "GG104",
        "foreign-write",
        "the memory was written with no torch operation, so PyTorch cannot notice; the gradient is silently wrong",
        "give the outside a copy: `.detach().cpu().numpy().copy()`, or clone what came from outside",
    ),
    "inplace_leaf": Entry(
        "GG105",
        "inplace-on-leaf-or-view",
        "autograd has no way to record a write to a leaf that requires grad",
        "write out of place, or under `torch.no_grad()` where the write is an initialisation or an update",
    ),
    "inplace_view": Entry(
        "GG105",
        "inplace-on-leaf-or-view",
        "autograd forbids the write: it cannot tell the view's base, or its other views, what changed",
        "use the out-of-place form, or clone the view first",
    ),
    "custom_function": Entry(
        "GG107",
        "function-breaks-contract",
        "autograd cannot see what the function did, and computes with the wrong numbers",
        "use `ctx.save_for_backward`, `ctx.mark_dirty`, and return new tensors from backward",
    ),
    "missing_grad": Entry(
        "GG201",
        "dead-parameter",
        "it will never train",
        "use it in forward, give it to the optimizer that trains it, or freeze it with `requires_grad_(False)`",
    ),
    "graph_cut": Entry(
        "GG202",
        "graph-cut",
        "the value reaches the loss, its gradient does not come back",
        "keep the operation differentiable: no detach, item, comparison or rounding between parameter and loss",
    ),
    "stale_grad": Entry(
        "GG206",
        "stale-gradient",
        "the update uses gradients that belong to another step, or loses some of its own",
        "clear gradients once between two updates: `optimizer.zero_grad()` right before the backward",
    ),
    "freed_graph": Entry(
        "GG209",
        "freed-graph",
        "the tensor still hangs on a graph whose buffers an earlier backward freed",
        "detach what is carried from step to step: `state = state.detach()`, or compute it anew",
    ),
    "nan_forward": Entry(
        "GG301",
        "nonfinite-forward",
        "NaN spreads from here into the loss and every gradient",
        "keep the operands inside the function's domain, or handle the empty or masked case on its own",
    ),
    "nan_backward": Entry(
        "GG302",
        "nonfinite-backward",
        "the value is finite, its derivative is not: 0 * inf is NaN, also behind `torch.where`",
        "clamp or mask the input of the operation, not its output",
    ),
    "dtype_overflow": Entry(
        "GG304",
        "mask-value-overflows",
        "the number does not fit the dtype: it becomes inf, or raises",
        "use `torch.finfo(dtype).min`, or compute this part in float32",
    ),
    "nondeterminism": Entry(
        "GG601",
        "nondeterminism",
        "two runs from one state give different numbers, so neither can be reproduced",
        "draw data and random numbers from what is handed over or seeded, and list every state that the step changes",
    ),
    "other": Entry("GG105", "inplace-on-leaf-or-view", "", "write to a new tensor instead"),
}
ORDER: tuple[str, ...] = (
    "inplace_saved", "optimizer_step_between", "silent_data_write", "silent_alias_write", "inplace_leaf",
    "inplace_view", "custom_function", "freed_graph", "dtype_overflow", "nan_forward", "nan_backward", "graph_cut",
    "missing_grad", "stale_grad", "nondeterminism", "other",
)  # fmt: skip


def make(
    kind: Kind,
    message: str,
    *,
    culprit: Place | None = None,
    victim: Place | None = None,
    severity: Severity = "error",
    code: str = "",
    name: str = "",
    **more: Any,
) -> Finding:
    """A finding of a kind, with the kind's own code, reason and fix where nothing else is given."""
    entry = ENTRIES[kind]
    more.setdefault("why", entry.why)
    more.setdefault("fix", entry.fix)
    return Finding(
        code=code or entry.code,
        name=name or entry.name,
        message=message,
        kind=kind,
        severity=severity,
        culprit=location(culprit),
        victim=location(victim),
        **more,
    )


def described(tensor: Tensor) -> dict[str, Any]:
    """Shape, dtype and device, ready for JSON."""
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "device": str(tensor.device),
    }


class Stopped(BaseException):
    """The first finding ends the program: `gradgate blame --first`.

    Args:
        finding: it.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.headline())
        self.finding = finding


class Ledger:
    """The findings of a run: repeats of one (code, culprit, victim) are counted, the worst come first.

    Attributes:
        stops: whether the next finding that is no note raises `Stopped`.
    """

    def __init__(self) -> None:
        self.stops = False
        self._found: dict[tuple[Any, ...], Finding] = {}
        self._log: list[tuple[Any, ...]] = []
        self._ranks: dict[tuple[Any, ...], int] = {}

    def add(self, finding: Finding, rank: int = 0) -> None:
        """Take a finding, or count it again.

        Args:
            finding: what was found.
            rank: among findings of one kind and severity, the lower comes first.
        """
        key = (finding.code, finding.kind, finding.culprit, finding.victim)
        known = self._found.get(key)
        if known is not None:
            worse = min(known, finding, key=lambda one: SEVERITIES.index(one.severity))
            finding = replace(worse, count=known.count + finding.count)
        self._found[key] = finding
        self._ranks.setdefault(key, rank)
        self._log.append(key)
        if self.stops and finding.severity != "note":
            self.stops = False
            raise Stopped(finding)

    def has(self, *kinds: str) -> bool:
        """Whether a finding of these kinds is there, graver than a note."""
        return any(finding.kind in kinds and finding.severity != "note" for finding in self._found.values())

    def soften(self, since: int, *kinds: str) -> None:
        """Turn findings of these kinds, added since a mark, into notes."""
        for key in self._log[since:]:
            if self._found[key].kind in kinds:
                self._found[key] = replace(self._found[key], severity="note")

    def mark(self) -> int:
        """A mark for `since`."""
        return len(self._log)

    def since(self, mark: int) -> list[Finding]:
        """Findings added or counted since a mark, worst first."""
        keys = dict.fromkeys(self._log[mark:])

        def badness(key: tuple[Any, ...]) -> tuple[int, int, int]:
            finding = self._found[key]
            return SEVERITIES.index(finding.severity), ORDER.index(finding.kind), self._ranks[key]

        return [self._found[key] for key in sorted(keys, key=badness)]
