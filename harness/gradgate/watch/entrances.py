"""What the wrapped entrances of torch report: memory handed out, numbers made tensors, gradients read, cleared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradgate.watch import sources
from gradgate.watch.catalogue import described, make
from gradgate.watch.ops import tensors
from gradgate.watch.places import here, inside_optimizer, location
from gradgate.watch.saved import Write, storage_key

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder


class Entrances:
    """One recorder's ear at the entrances that no dispatch mode sees."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def exposed(self, tensor: Tensor, *, numpy: bool) -> None:
        """Memory goes to something that writes without torch."""
        recorder = self._recorder
        if recorder.backward.depth and not recorder.python_in_backward and not recorder.functions.seen:
            return
        recorder.shelf.expose(tensor)
        if numpy and recorder.flow.active:
            cuts = recorder.flow.of(tensor)
            if cuts:
                recorder.flow.cut(here(3), "numpy", "numpy", cuts[0].victim, recorder.count)

    def built(self, made: Any, data: Any, name: str) -> None:
        """A tensor was made from Python numbers, arrays or tensors."""
        recorder = self._recorder
        if not isinstance(made, Tensor) or isinstance(data, Tensor):
            return
        place = here(3)
        given = [part for part in tensors(data) if part.requires_grad or recorder.flow.of(part)]
        if given:
            cut = recorder.flow.cut(place, "torch.tensor", name, recorder.maker(given, place), recorder.count)
            recorder.flow.taint(made, (cut,), place, new=True)
        elif recorder.flow.active or recorder.flow.cuts:
            reason = "numpy" if type(data).__module__ == "numpy" else "number"
            cuts = recorder.flow.numbers(reason)
            if cuts:
                recorder.flow.taint(made, cuts, place, new=True)

    def data_read(self, tensor: Tensor, data: Tensor) -> None:
        """`tensor.data`: the same numbers, without history, and without an operation."""
        recorder = self._recorder
        if tensor.requires_grad and torch.is_grad_enabled():
            place = here(3)
            cut = recorder.flow.cut(place, "detach", "data", recorder.maker([tensor], place), recorder.count)
            recorder.flow.taint(data, (cut, *recorder.flow.of(tensor)), place, tensor)

    def data_set(self, tensor: Tensor, setting: Callable[[], None]) -> None:
        """`tensor.data = other`: no operation, no version, other numbers."""
        place = here(3)
        hit = [saved for saved in self._recorder.shelf.hit([tensor]) if saved.tensor is tensor]
        setting()
        if self._recorder.gradients.read_by_user:
            self._recorder.gradients.updated_by_hand([tensor], "data =")
        by_optimizer = bool(hit) and inside_optimizer(sys._getframe(2))
        for saved in hit:
            saved.writes.append(Write(place, "data =", tensor._version, saved.changed(), by_optimizer))

    def grad_disabled(self) -> None:
        """The grad mode goes off."""
        if torch.is_grad_enabled():
            self._recorder.disabled_at = here(3)

    def grad_read(self, tensor: Tensor) -> None:
        """The user's own code reads a `.grad`."""
        recorder = self._recorder
        if tensor.is_leaf or tensor.retains_grad or not tensor.requires_grad:
            recorder.gradients.read(tensor, by_user=True)
            return
        read = here(3)
        maker = recorder.maker_of(tensor)
        finding = make(
            "missing_grad",
            "`.grad` of a tensor that is no leaf is read: it stays None",
            culprit=maker or read,
            victim=read if maker else None,
            tensor=described(tensor),
            fix="convert first, then `requires_grad_()`; or `retain_grad()` before backward",
        )
        at = location(read)
        lost = sources.lost_leaf(at, sources.grad_owner(read)) if at and read and not maker else None
        recorder.ledger.add(replace(finding, culprit=lost, victim=at) if lost else finding)

    def cleared(self, cleared: Iterable[Tensor]) -> None:
        """Gradients are set to None or zero."""
        place = here(3)
        for tensor in cleared:
            self._recorder.gradients.cleared(tensor, place)

    def zeroed(self, targets: list[Tensor]) -> None:
        """Tensors are set to zero: gradients, perhaps."""
        owners = self._recorder.gradients.owners()
        known = [(owners.get(storage_key(target)), target) for target in targets]
        self.cleared([leaf for leaf, target in known if leaf is not None and leaf.numel() == target.numel()])
