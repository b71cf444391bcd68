"""Who should have trained and did not: dead parameters, parameters that no optimizer has, layers that are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradgate.core.finding import Finding, Location
from gradgate.watch import sources
from gradgate.watch.catalogue import described, make
from gradgate.watch.flow import WRITTEN_ON_PURPOSE, Cut, cut_finding
from gradgate.watch.handed import handed, owned
from gradgate.watch.holders import kept_at
from gradgate.watch.places import location

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder


def settle(recorder: Recorder, subjects: Sequence[Any]) -> None:
    """The block ended well."""
    dead_parameters(recorder, subjects)
    unregistered(recorder, subjects)
    if not recorder.ledger.has("missing_grad"):
        uncovered(recorder, subjects)


def dead_parameters(recorder: Recorder, subjects: Sequence[Any]) -> None:
    """Parameters that got no gradient: replaced, cut off, or not used at all."""
    stepping = _stepping(recorder)
    grave = stepping | {id(subject) for subject in subjects if isinstance(subject, Tensor)}
    expected = {id(tensor): tensor for tensor in [*handed(subjects), *recorder.starved.values()]}
    dead = [tensor for tensor in expected.values() if tensor.is_leaf and _is_dead(recorder, tensor)]
    if not dead:
        return
    if any(id(tensor) in stepping for tensor in dead):
        replaced = _replaced(recorder, subjects, stepping) or _copied(recorder, subjects, dead)
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
            recorder.ledger.add(cut_finding(cut, "a parameter gets no gradient", None, severity))
    for names, place, group in _by_layer(recorder, subjects, unexplained):
        finding = make(
            "missing_grad",
            f"{names} gets no gradient in any backward of the block",
            severity="error" if any(id(tensor) in grave for tensor in group) else "note",
            tensor=described(group[0]),
        )
        recorder.ledger.add(replace(finding, culprit=place))


def _stepping(recorder: Recorder) -> set[int]:
    """What optimizers have updated."""
    return set().union(*recorder.gradients.steps[-64:])


def _modules(subjects: Sequence[Any]) -> list[nn.Module]:
    return [subject for subject in subjects if isinstance(subject, nn.Module)]


def unregistered(recorder: Recorder, subjects: Sequence[Any]) -> None:
    """Layers in a plain list or dict, tensors that are no nn.Parameter: `parameters()` never sees them."""
    trained = _stepping(recorder)
    for root in _modules(subjects):
        known = {id(tensor) for tensor in root.parameters()} | trained
        for module in root.modules():
            for name, held in vars(module).items():
                if name.startswith("_") or not isinstance(held, dict | list | tuple | Tensor):
                    continue
                loose = [tensor for tensor in _parameters_in(held) if id(tensor) not in known and tensor.requires_grad]
                if any(recorder.gradients.had(tensor) for tensor in loose):
                    _hidden(recorder, type(module), name, loose, "nn.ModuleList, nn.ModuleDict or nn.ParameterList")
                elif trained and isinstance(held, Tensor) and _is_loose(recorder, held, known):
                    _hidden(recorder, type(module), name, [held], "nn.Parameter")


def _is_loose(recorder: Recorder, held: Tensor, known: set[int]) -> bool:
    """Whether a plain tensor got a gradient, and nobody who has parameters has it."""
    return held.is_leaf and held.requires_grad and id(held) not in known and recorder.gradients.had(held)


def _hidden(recorder: Recorder, owner: type, name: str, loose: list[Tensor], instead: str) -> None:
    finding = make(
        "missing_grad",
        f"`{owner.__name__}.{name}` holds {len(loose)} parameter(s) hidden from `parameters()`",
        tensor=described(loose[0]),
        fix=f"hold `{name}` in {instead}, before the optimizer is built",
    )
    places = sources.assignments(owner, name)
    recorder.ledger.add(replace(finding, culprit=places[-1] if places else None))


def uncovered(recorder: Recorder, subjects: Sequence[Any]) -> None:
    """Parameters with gradients that no optimizer has, beside others of the same module that one updates."""
    stepping = _stepping(recorder)
    optimizers = [subject for subject in subjects if isinstance(subject, torch.optim.Optimizer)]
    known = stepping | {id(tensor) for optimizer in optimizers for tensor in owned(optimizer)}
    for root in _modules(subjects):
        own: list[Tensor] = [tensor for tensor in root.parameters() if tensor.requires_grad]
        left = [tensor for tensor in own if id(tensor) not in known and recorder.gradients.had(tensor)]
        if not left or not any(id(tensor) in stepping for tensor in own):
            continue
        ids = {id(tensor) for tensor in own}
        built = [place for made_with, place in recorder.updates.built_at if not ids.isdisjoint(made_with)]
        for names, place, group in _by_layer(recorder, [root], left):
            finding = make(
                "missing_grad",
                f"{names} gets gradients, and no optimizer updates it",
                severity="warning",
                tensor=described(group[0]),
            )
            recorder.ledger.add(replace(finding, culprit=location(built[-1]) if built else place))


def _copied(recorder: Recorder, subjects: Sequence[Any], dead: list[Tensor]) -> Finding | None:
    """A module that gets gradients while an optimizer updates tensors of the same shapes that belong to no module."""
    stepping = _stepping(recorder)
    theirs = {id(tensor) for root in _modules(subjects) for tensor in root.parameters()}
    shapes = {tensor.shape for tensor in dead if id(tensor) in stepping and id(tensor) not in theirs}
    for root in _modules(subjects):
        own = [tensor for tensor in root.parameters() if recorder.gradients.had(tensor)]
        if own and shapes >= {tensor.shape for tensor in own} and not any(id(tensor) in stepping for tensor in own):
            finding = make(
                "missing_grad",
                f"`{type(root).__name__}` gets gradients, and the optimizer updates other tensors of the same shapes",
                tensor=described(own[0]),
                fix="build the optimizer from the parameters of the module that is trained",
            )
            return replace(finding, culprit=kept_at(root))
    return None


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
