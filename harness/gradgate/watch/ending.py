"""What can only be said when a backward or the block is over: dead parameters, cuts, lost gradients, NaN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradgate.core.finding import Finding, Kind, Location
from gradgate.watch import sources
from gradgate.watch.catalogue import described, make
from gradgate.watch.flow import WRITTEN_ON_PURPOSE, Cut
from gradgate.watch.gradients import _grad_of
from gradgate.watch.places import Place, location
from gradgate.watch.saved import readable

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder


def owned(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimizer updates."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def meet(recorder: Recorder, subjects: Iterable[Any]) -> None:
    """Note what is handed over, before the block runs."""
    for tensor in _handed(subjects):
        if tensor.is_leaf:
            recorder.gradients.meet(tensor, -1)
            if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
                recorder.python_in_backward = True


def _handed(subjects: Iterable[Any]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for subject in subjects:
        if isinstance(subject, nn.Module):
            some: Iterable[Tensor] = subject.parameters()
        else:
            some = owned(subject) if isinstance(subject, torch.optim.Optimizer) else [subject]
        found.update((id(tensor), tensor) for tensor in some if tensor.requires_grad)
    return list(found.values())


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


@dataclass(frozen=True, slots=True)
class Sick:
    """The first operation in backward whose result was not finite.

    Args:
        place: the forward line of its node.
        node: the node's name.
        op: the operation inside it.
        operands: the forward line that made the node's operand.
    """

    place: Place | None
    node: str
    op: str
    operands: Place | None


_STEEP = ("Sqrt", "Log", "Norm", "LinalgVectorNorm", "Acos", "Asin", "Atan2", "Rsqrt", "Reciprocal")


def not_finite_backward(sick: Sick | None, place: Place | None) -> Finding:
    """The loss is finite, a gradient is not."""
    if sick is None:
        return make("nan_backward", "the loss is finite, a gradient is NaN or Inf", victim=place, confirmed=True)
    steep = sick.node.startswith(_STEEP)
    rule: dict[str, Any] = {"code": "GG307", "name": "unsafe-function"} if steep else {}
    name = sick.node.removesuffix("0").removesuffix("Backward")
    return make(
        "nan_backward",
        f"the loss is finite, the derivative of {name} is not ({sick.op})",
        culprit=sick.place,
        victim=sick.operands,
        op=sick.node,
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
    if not cuts:
        return make(
            "graph_cut", "the loss does not depend on anything that requires grad", culprit=again, confirmed=True
        )
    return _cut_finding(cuts[0], "the loss has no graph", victim)


def soft_cuts(recorder: Recorder) -> None:
    """Gradients that are there, but zero everywhere, behind an operation without slope."""
    for cut in recorder.flow.cuts:
        if cut.reason != "zero slope":
            continue
        leaves = [(leaf.tensor(), leaf.used_at) for leaf in recorder.gradients.leaves.values() if leaf.had]
        dead = [tensor for tensor, used in leaves if tensor is not None and 0 <= used <= cut.last and _is_zero(tensor)]
        if dead:
            recorder.ledger.add(_cut_finding(cut, f"{len(dead)} parameter(s) get exactly zero as gradient", None))
            return


def _is_zero(tensor: Tensor) -> bool:
    gradient = _grad_of(tensor)
    own = None if gradient is None else readable(gradient)
    return own is not None and not bool(own.any())


def _cut_finding(cut: Cut, message: str, victim: Place | None, severity: Any = "error") -> Finding:
    return make(
        "graph_cut",
        f"{message}: the value passes {cut.op} ({cut.reason}), which lets no gradient back",
        culprit=cut.place,
        victim=cut.victim or victim,
        severity=severity,
        op=cut.op,
    )


def settle(recorder: Recorder, subjects: Sequence[Any]) -> None:
    """The block ended well: who should have trained and did not?"""
    lost = recorder.gradients.lost()
    if lost:
        message = "gradients are cleared before any update has used them"
        recorder.ledger.add(
            make("stale_grad", message, culprit=lost.place, victim=lost.backward.place, severity="warning")
        )
    if recorder.gradients.passes:
        _dead_parameters(recorder, subjects)
        _unregistered(recorder, subjects)
    for cut in recorder.flow.cuts:
        if cut.reached and not recorder.ledger.has("graph_cut"):
            recorder.ledger.add(_cut_finding(cut, "part of the loss trains nothing", None, "warning"))


def _dead_parameters(recorder: Recorder, subjects: Sequence[Any]) -> None:
    stepping = set().union(*recorder.gradients.steps[-64:]) if recorder.gradients.steps else set()
    grave = stepping | {id(subject) for subject in subjects if isinstance(subject, Tensor)}
    expected = {id(tensor): tensor for tensor in [*_handed(subjects), *recorder.starved.values()]}
    dead = [tensor for tensor in expected.values() if tensor.is_leaf and _is_dead(recorder, tensor)]
    if not dead:
        return
    replaced = _replaced(recorder, subjects, stepping) if any(id(tensor) in stepping for tensor in dead) else None
    if replaced:
        recorder.ledger.add(replaced)
        return
    unexplained = []
    for tensor in dead:
        cut = _cut_of(recorder, tensor)
        if cut is None:
            unexplained.append(tensor)
        else:
            severity = "error" if id(tensor) in grave or cut.reason not in WRITTEN_ON_PURPOSE else "note"
            recorder.ledger.add(_cut_finding(cut, "a parameter gets no gradient", None, severity))
    for names, place, group in _by_layer(recorder, subjects, unexplained):
        finding = make(
            "missing_grad",
            f"{names} gets no gradient in any backward of the block",
            severity="error" if any(id(tensor) in grave for tensor in group) else "note",
            tensor=described(group[0]),
        )
        recorder.ledger.add(replace(finding, culprit=place))


def _unregistered(recorder: Recorder, subjects: Sequence[Any]) -> None:
    """Layers in a plain list or dict: they get gradients, but `parameters()` and optimizers never see them."""
    trained = set().union(*recorder.gradients.steps[-64:]) if recorder.gradients.steps else set()
    for root in (subject for subject in subjects if isinstance(subject, nn.Module)):
        known = {id(tensor) for tensor in root.parameters()} | trained
        for module in root.modules():
            for name, held in vars(module).items():
                if name.startswith("_") or not isinstance(held, dict | list | tuple):
                    continue
                loose = [tensor for tensor in _parameters_in(held) if id(tensor) not in known and tensor.requires_grad]
                if not any(recorder.gradients.had(tensor) for tensor in loose):
                    continue
                finding = make(
                    "missing_grad",
                    f"`{type(module).__name__}.{name}` holds {len(loose)} parameter(s) hidden from `parameters()`",
                    tensor=described(loose[0]),
                    fix="hold layers in nn.ModuleList or nn.ModuleDict, parameters in nn.ParameterList",
                )
                place = next(iter(sources.assignments(type(module), name)[::-1]), None)
                recorder.ledger.add(replace(finding, culprit=place))


def _parameters_in(held: Any) -> list[Tensor]:
    if isinstance(held, dict):
        held = list(held.values())
    if not isinstance(held, list | tuple):
        return []
    modules = [part for part in held if isinstance(part, nn.Module)]
    own: list[Tensor] = [part for part in held if isinstance(part, nn.Parameter)]
    return own + [tensor for module in modules for tensor in module.parameters()]


def _is_dead(recorder: Recorder, tensor: Tensor) -> bool:
    return not getattr(tensor, "_post_accumulate_grad_hooks", None) and not recorder.gradients.had(tensor)


def _cut_of(recorder: Recorder, tensor: Tensor) -> Cut | None:
    leaf = recorder.gradients.leaves.get(id(tensor))
    if leaf is None or leaf.used_at < 0:
        return None
    after = [cut for cut in recorder.flow.cuts if cut.last >= leaf.used_at]
    cuts = [cut for cut in after if cut.joined] or [cut for cut in after if _came_back(recorder, cut)]
    return min(cuts, key=lambda cut: (cut.first < leaf.used_at, cut.first), default=None)


def _came_back(recorder: Recorder, cut: Cut) -> bool:
    """Whether a number that left for Python is named on a line of the same function that made a node."""
    if cut.reason != "number" or cut.place is None:
        return False
    same = {place[1] for place in recorder.lines.values() if place is not None and place[0] is cut.place[0]}
    return cut.place[1] in same or any(sources.reads(cut.place, line) for line in same)


def _replaced(recorder: Recorder, subjects: Sequence[Any], stepping: set[int]) -> Finding | None:
    """A parameter made in the block that gets gradients, but that no optimizer which steps has."""
    for module in (subject for subject in subjects if isinstance(subject, nn.Module)):
        for name, parameter in module.named_parameters():
            made = recorder.made_at.get(id(parameter))
            if made is None or made.tensor() is not parameter or id(parameter) in stepping:
                continue
            if _is_dead(recorder, parameter):
                continue
            return make(
                "missing_grad",
                f"`{name}` was made after the optimizer, which still updates what it replaced",
                culprit=made.place,
                tensor=described(parameter),
                fix="build the optimizer last, from the parameters that the model has then",
            )
    return None


def _by_layer(
    recorder: Recorder, subjects: Sequence[Any], dead: list[Tensor]
) -> list[tuple[str, Location | None, list[Tensor]]]:
    """Dead parameters under the largest module that is dead as a whole, with the line that assigns it."""
    missing = {id(tensor) for tensor in dead}
    groups: list[tuple[str, Location | None, list[Tensor]]] = []
    taken: set[int] = set()
    for root in (subject for subject in subjects if isinstance(subject, nn.Module)):
        for path, parent in root.named_modules():
            for name, child in [*parent.named_children(), *parent.named_parameters(recurse=False)]:
                own = list(child.parameters()) if isinstance(child, nn.Module) else [child]
                group = [tensor for tensor in own if tensor.requires_grad]
                if not group or any(id(tensor) not in missing or id(tensor) in taken for tensor in group):
                    continue
                taken.update(id(tensor) for tensor in group)
                full = f"{path}.{name}" if path else name
                groups.append((f"`{full}`", _assigned(root, full) or _made(recorder, group[0]), group))
    loose: dict[tuple[str, Location | None], list[Tensor]] = {}
    for tensor in dead:
        if id(tensor) not in taken:
            made = recorder.made_at.get(id(tensor))
            label = f"`{made.label}`" if made else f"a tensor of shape {tuple(tensor.shape)}"
            loose.setdefault((label, _made(recorder, tensor)), []).append(tensor)
    return groups + [(label, place, group) for (label, place), group in loose.items()]


def _made(recorder: Recorder, tensor: Tensor) -> Location | None:
    made = recorder.made_at.get(id(tensor))
    return location(made.place) if made and made.tensor() is tensor else None


def _assigned(root: nn.Module, path: str) -> Location | None:
    """The line that assigns the innermost attribute on a path whose owner's source is the user's."""
    parts = path.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        owner = root.get_submodule(".".join(parts[:depth]))
        places = sources.assignments(type(owner), parts[depth])
        if places:
            return next((place for place in places if place.function == "__init__"), places[0])
    return None
