"""Gradients over the life of a block: who got one, which backward made it, which update used it, who cleared it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradgate.watch.numerics import is_finite
from gradgate.watch.places import Place
from gradgate.watch.saved import readable, storage_key

_descriptor: Any = torch._C.TensorBase.grad
_grad_of = _descriptor.__get__

_MOST_DROPPED = 1000
_ADDING = frozenset({"add_", "sub_", "addcdiv_", "addcmul_", "_foreach_add_", "_foreach_sub_", "data ="})


@dataclass(slots=True, eq=False)
class Pass:
    """One backward.

    Args:
        number: counts from 1.
        place: its line.
        steps: updates made before it.
        used: an update or the user's own code read a gradient that it made.
    """

    number: int
    place: Place | None
    steps: int
    used: bool = False


@dataclass(slots=True)
class _Leaf:
    tensor: weakref.ref[Tensor]
    state: tuple[int, int] | None = None
    had: bool = False
    consumed: bool = False
    pending: list[Pass] = field(default_factory=list)
    used_at: int = -1
    stale: Pass | None = None  # the backward that added to gradients already used


@dataclass(frozen=True, slots=True)
class Dropped:
    """Gradients cleared before any update used them."""

    leaf: int
    place: Place | None
    backward: Pass


class Gradients:
    """Keeps the books."""

    def __init__(self) -> None:
        self.leaves: dict[int, _Leaf] = {}
        self.before_use: Callable[[Tensor], None] | None = None  # told of a leaf before its gradient is touched
        self.passes = 0
        self._limit = 1024
        self.steps: list[set[int]] = []  # of each update, the leaves that it owns
        self.dropped: list[Dropped] = []
        self.read_by_user: dict[int, int] = {}  # memory of leaves whose gradients the user read since the last backward
        self._by_hand: list[tuple[int, Pass]] = []  # leaves updated by hand with gradients added to earlier ones

    def meet(self, tensor: Tensor, index: int) -> None:
        """A leaf was used in forward, or handed over."""
        leaf = self.leaves.get(id(tensor))
        if leaf is None or leaf.tensor() is not tensor:
            if self.before_use:
                self.before_use(tensor)
            leaf = self.leaves[id(tensor)] = _Leaf(weakref.ref(tensor), _state(tensor))
        if index >= 0 and leaf.used_at < 0:
            leaf.used_at = index

    def had(self, tensor: Tensor) -> bool:
        """Whether a leaf has, or had at some time, a gradient."""
        leaf = self.leaves.get(id(tensor))
        return _grad_of(tensor) is not None or (leaf is not None and leaf.had)

    def before_backward(self) -> None:
        """Gradients cleared or edited since the last update are not that update's any more."""
        for leaf in self.leaves.values():
            tensor = leaf.tensor()
            if leaf.consumed and tensor is not None and _state(tensor) != leaf.state:
                leaf.consumed = False

    def after_backward(self, place: Place | None) -> None:
        """Find out which leaves a backward reached, and whether it added to what an update had already used.

        Args:
            place: the line of the backward.
        """
        self.passes += 1
        self.read_by_user.clear()
        if len(self.leaves) > self._limit:
            self.leaves = {key: leaf for key, leaf in self.leaves.items() if leaf.tensor() is not None}
            self._limit = max(1024, 2 * len(self.leaves))
        done = Pass(self.passes, place, len(self.steps))
        for leaf in self.leaves.values():
            tensor = leaf.tensor()
            if tensor is None:
                continue
            state = _state(tensor)
            if state is None or state == leaf.state:
                continue
            if leaf.consumed:
                leaf.stale = done
            leaf.had, leaf.consumed, leaf.state = True, False, state
            leaf.pending.append(done)

    def returned(self, inputs: Iterable[Tensor]) -> None:
        """`autograd.grad` returned gradients of these."""
        for tensor in inputs:
            leaf = self.leaves.get(id(tensor))
            if leaf is not None:
                leaf.had = True

    def stale(self, owned: Iterable[Tensor]) -> Pass | None:
        """The backward that added to gradients of an earlier update, where this update is about to use the sum."""
        for tensor in owned:
            leaf = self.leaves.get(id(tensor))
            if leaf is not None and leaf.stale is not None:
                found, leaf.stale = leaf.stale, None
                if _state(tensor) == leaf.state:
                    return found
        return None

    def before_step(self, owned: Iterable[Tensor]) -> tuple[Pass, Pass] | None:
        """An optimizer is about to use gradients.

        Returns:
            The first and the last backward behind them, where another optimizer's update came between the two.
        """
        mixed = None
        for tensor in owned:
            leaf = self.leaves.get(id(tensor))
            if leaf is None or len(leaf.pending) < 2:
                continue
            first, last = leaf.pending[0], leaf.pending[-1]
            if first.used and first.steps < last.steps:  # another's: its own would have left none pending
                mixed = (first, last)
        return mixed

    def after_step(self, owned: list[Tensor]) -> None:
        """An optimizer has used gradients."""
        ids = {id(tensor) for tensor in owned}
        same = next(
            (step for step in reversed(self.steps[-4:]) if step == ids), ids
        )  # one set an optimizer, not a step
        self.steps.append(same)
        for tensor in owned:
            self.meet(tensor, -1)
            leaf = self.leaves[id(tensor)]
            for backward in leaf.pending:
                backward.used = True
            leaf.pending = []
            leaf.state = _state(tensor)
            leaf.consumed = leaf.state is not None

    def read(self, tensor: Tensor, *, by_user: bool) -> None:
        """Somebody looked at a gradient; an optimizer does so to use it."""
        leaf = self.leaves.get(id(tensor))
        if leaf is None:
            return
        for backward in leaf.pending:
            backward.used = True
        if by_user:
            self.read_by_user[storage_key(tensor)] = id(tensor)
        else:
            leaf.state = _state(tensor)
            leaf.consumed = leaf.state is not None

    def updated_by_hand(self, targets: Iterable[Tensor], op: str) -> None:
        """An in-place operation under no_grad, after the user read gradients: an update, if it adds to their leaves."""
        if op not in _ADDING:
            return
        for target in targets:
            leaf = self.leaves.get(self.read_by_user.get(storage_key(target), 0))
            tensor = None if leaf is None else leaf.tensor()
            if leaf is None or tensor is None or _grad_of(tensor) is None:
                continue
            if leaf.stale is not None and _state(tensor) == leaf.state:
                self._by_hand.append((id(tensor), leaf.stale))
            leaf.stale, leaf.state, leaf.consumed = None, _state(tensor), True

    def stale_by_hand(self) -> Pass | None:
        """The backward that added to gradients which an update by hand had used, of a leaf that no optimizer has."""
        trained = set().union(*self.steps)
        return next((backward for leaf, backward in self._by_hand if leaf not in trained), None)

    def cleared(self, tensor: Tensor, place: Place | None) -> None:
        """A gradient is about to be cleared."""
        leaf = self.leaves.get(id(tensor))
        if leaf is None:
            return
        gradient = _grad_of(tensor)
        unused = [backward for backward in leaf.pending if not backward.used]
        room = unused and len(self.dropped) < _MOST_DROPPED
        own = None if gradient is None else readable(gradient)
        if room and own is not None and is_finite(own) and bool(own.any()):
            self.dropped.append(Dropped(id(tensor), place, unused[-1]))
        leaf.pending, leaf.consumed, leaf.state, leaf.stale = [], False, None, None

    def owners(self) -> dict[int, Tensor]:
        """Memory of a gradient to its leaf."""
        found = {}
        for leaf in self.leaves.values():
            tensor = leaf.tensor()
            gradient = None if tensor is None else _grad_of(tensor)
            if tensor is not None and gradient is not None:
                found[storage_key(gradient)] = tensor
        return found

    def present(self) -> list[Tensor]:
        """All gradients that are there."""
        leaves = (leaf.tensor() for leaf in self.leaves.values())
        found = (_grad_of(tensor) for tensor in leaves if tensor is not None)
        return [gradient for gradient in found if gradient is not None]

    def lost(self) -> Dropped | None:
        """Gradients that a clearing threw away though nothing had used them, of leaves that are updated elsewhere."""
        trained = set().union(*self.steps)
        for dropped in self.dropped:
            if dropped.leaf in trained and not dropped.backward.used:
                return dropped
        return None


def _state(tensor: Tensor) -> tuple[int, int] | None:
    gradient = _grad_of(tensor)
    return None if gradient is None else (id(gradient), gradient._version)
