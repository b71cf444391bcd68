"""What can only be said when a backward or the block is over: dead parameters, cuts, lost gradients, NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradgate.core.finding import Finding, Kind
from gradgate.watch import retained, sources, untrained
from gradgate.watch.catalogue import described, make
from gradgate.watch.flow import cut_finding
from gradgate.watch.gradients import _grad_of
from gradgate.watch.places import Place
from gradgate.watch.saved import readable
from gradgate.watch.slopes import Sick
from gradgate.watch.updates import STALE

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder


# --- NaN and Inf ----------------------------------------------------------------------------------------------------


_CONSTANTS = frozenset({"_to_copy", "full", "full_like", "scalar_tensor", "masked_fill", "fill_", "lift_fresh"})


def not_finite_forward(recorder: Recorder, root: Tensor) -> Finding:
    """The loss is NaN or Inf: where that began."""
    birth = recorder.numerics.of(root) or recorder.numerics.first
    what = "NaN" if bool(root.isnan().any()) else "Inf"
    if birth is None:
        return _from_saved(recorder, what)
    kind: Kind = "dtype_overflow" if birth.overflowed else "nan_forward"
    seen = f" of operands in {birth.ranges}" if birth.ranges else ""
    came = "came with the data" if birth.what == "given" else f"was born in {birth.op}(){seen}"
    cause = birth.cause
    if birth.what == "nan" and cause is not None and cause.overflowed and cause.op not in _CONSTANTS:
        birth, cause = cause, None  # a computed number overflowed; a constant does harm only where it is used
        came = f"overflowed in {birth.op}() of operands in {birth.ranges}"
    victim = cause.place if cause and cause.place != birth.place else birth.operands
    return make(
        kind,
        f"the loss is {what}: it {came}",
        culprit=birth.place,
        victim=victim,
        op=birth.op,
        confirmed=True,
    )


def _from_saved(recorder: Recorder, what: str) -> Finding:
    """No birth was seen: the first saved tensor that is not finite."""
    for saved in recorder.shelf.everything():
        tensor = saved.tensor
        if tensor.is_floating_point() and tensor.numel() and bool(tensor.isnan().any()):
            place = recorder.line_of(saved.seq)
            message = f"the loss is {what}: the first tensor that the graph saved with NaN is here"
            return make("nan_forward", message, culprit=place, tensor=described(tensor), confirmed=True)
    return make("nan_forward", f"the loss is {what}, and nothing that the graph holds says why", confirmed=True)


_STEEP = ("Sqrt", "Log", "Norm", "LinalgVectorNorm", "Acos", "Asin", "Atan2", "Rsqrt", "Reciprocal", "Pow")


def not_finite_backward(recorder: Recorder, sick: Sick | None, place: Place | None) -> Finding:
    """The loss is finite, a gradient is not."""
    if sick is None:
        recorder.numerics.alarmed = True
        return make("nan_backward", "the loss is finite, a gradient is NaN or Inf", victim=place, confirmed=True)
    rule: dict[str, Any] = {"code": "GG307", "name": "unsafe-function"} if sick.name.startswith(_STEEP) else {}
    culprit = recorder.line_of(sick.seq)
    return make(
        "nan_backward",
        f"the loss is finite, the derivative of {sick.name} is not",
        culprit=culprit,
        victim=recorder.line_behind(sick.operand, culprit),
        op=sick.name,
        confirmed=True,
        **rule,
    )


# --- graph cuts and dead parameters -----------------------------------------------------------------------------------


def no_history(recorder: Recorder, roots: Sequence[Tensor], again: Place | None) -> Finding:
    """A backward from a loss without a graph."""
    cuts = [cut for root in roots for cut in recorder.flow.of(root)]
    victim = next((place for root in roots if (place := recorder.flow.place_of(root))), None)
    if not torch.is_grad_enabled() and recorder.disabled_at:
        message = "the loss has no graph: gradients were switched off and never on again"
        return make("graph_cut", message, culprit=recorder.disabled_at, victim=victim, confirmed=True)
    cuts = cuts or list(recorder.flow.numbers("number") or recorder.flow.numbers("numpy"))[-1:]
    if not cuts:
        message = "the loss does not depend on anything that requires grad"
        frozen = sources.freezings(again[0].co_filename) if again else []
        found = make("graph_cut", message, culprit=again, confirmed=True)
        return replace(found, culprit=frozen[0], victim=found.culprit) if len(frozen) == 1 else found
    return cut_finding(cuts[0], "the loss has no graph", victim)


def soft_cuts(recorder: Recorder) -> None:
    """Gradients that are there, but zero everywhere, behind an operation without slope."""
    for cut in recorder.flow.cuts:
        if cut.reason != "zero slope":
            continue
        leaves = [(leaf.tensor(), leaf.used_at) for leaf in recorder.gradients.leaves.values() if leaf.had]
        dead = [tensor for tensor, used in leaves if tensor is not None and 0 <= used <= cut.last and _is_zero(tensor)]
        if dead:
            recorder.ledger.add(cut_finding(cut, f"{len(dead)} parameter(s) get exactly zero as gradient", None))
            return


def _is_zero(tensor: Tensor) -> bool:
    gradient = _grad_of(tensor)
    own = None if gradient is None else readable(gradient)
    return own is not None and not bool(own.any())


def settle(recorder: Recorder, subjects: Sequence[Any]) -> None:
    """The block ended well: who should have trained and did not?"""
    lost = recorder.gradients.lost()
    if lost:
        message = "gradients are cleared before any update has used them"
        recorder.ledger.add(
            make("stale_grad", message, culprit=lost.place, victim=lost.backward.place, severity="warning")
        )
    by_hand = recorder.gradients.stale_by_hand()
    if by_hand:
        recorder.ledger.add(make("stale_grad", STALE, culprit=by_hand.place))
    if recorder.gradients.passes:
        untrained.settle(recorder, subjects)
    for cut in recorder.flow.cuts:
        if cut.reached and not recorder.ledger.has("graph_cut"):
            recorder.ledger.add(cut_finding(cut, "part of the loss trains nothing", None, "warning"))
    for finding in retained.look(recorder):
        recorder.ledger.add(finding)
