"""A tape of what autograd takes for constant, so that finite differences can hold the same things constant.

`detach()`, `.data`, `no_grad` blocks, `argmax`, `.item()` and a trip through numpy all cut the graph: the gradient that
autograd claims to give is the one of the function in which everything that was cut off is a constant. That function
is evaluated at other parameters by replay. In the first evaluation the tape notes, at each call in which some
argument requires grad, the values of all the others; in a replay those arguments are given these values again.

Constants are thus fixed where they *enter* the graph, not where they were cut off. What happens in between runs as it
is: a write through `.data` into a tensor of the graph is repeated by the replay, and counts as part of the function.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

_INPLACE_OPERATORS = re.compile(
    r"__(setitem|i(add|sub|mul|matmul|truediv|floordiv|mod|pow|lshift|rshift|and|or|xor))__"
)


class ReplayMismatchError(Exception):
    """A replay took another way than the recording: what is held constant there is not known here."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One call on the graph: its name, and its constant arguments by their place among all the arguments."""

    name: str
    constants: dict[int, Any]


@dataclass(slots=True)
class Tape:
    """The constants of one evaluation, in the order of the calls that used them.

    Args:
        entries: one a call.
        dtypes: of all tensors on the graph that the calls took.
    """

    entries: list[_Entry] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)


def record(function: Callable[[], Tensor]) -> tuple[Tensor, Tape]:
    """Evaluate a function and note what autograd takes for constant.

    Args:
        function: builds its result with torch, with grad mode on.

    Returns:
        The result, on the graph, and the tape. A backward may follow.
    """
    tape = Tape()
    recorder = _Recorder(tape)
    with recorder, _functions_through(recorder.call):
        return function(), tape


def replay(function: Callable[[], Tensor], tape: Tape) -> Tensor:
    """Evaluate the function again, at other parameters, with the constants of the tape.

    Raises:
        ReplayMismatchError: the calls on the graph are not those of the recording, in number, name or shape.
    """
    player = _Player(tape)
    with player, _functions_through(player.call):
        result = function()
    player.finish()
    return result


class _GraphCalls(TorchFunctionMode):
    """Sees every torch call of a block; hands those with an argument that requires grad to `call`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call; its constant arguments are noted or replaced where it is on the graph."""
        with torch._C.DisableTorchFunction():  # what is asked of the arguments here is no call of the function's own
            leaves, spec = tree_flatten((args, kwargs))
            if torch.is_grad_enabled() and any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
                args, kwargs = tree_unflatten(self.constants(func, leaves), spec)
        return func(*args, **kwargs)

    def constants(self, func: Callable[..., Any], leaves: list[Any]) -> list[Any]:
        """The arguments to use."""
        raise NotImplementedError


class _Recorder(_GraphCalls):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def constants(self, func: Callable[..., Any], leaves: list[Any]) -> list[Any]:
        values = {i: leaf for i, leaf in enumerate(leaves) if _is_constant(leaf)}
        copies = {i: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for i, leaf in values.items()}
        self._tape.entries.append(_Entry(_name(func), copies))
        self._tape.dtypes |= {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad}
        return leaves


class _Player(_GraphCalls):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._entries = tape.entries
        self._next = 0

    def constants(self, func: Callable[..., Any], leaves: list[Any]) -> list[Any]:
        entry = self._take(_name(func))
        here = {i for i, leaf in enumerate(leaves) if _is_constant(leaf)}
        if here != entry.constants.keys():
            raise ReplayMismatchError(f"{entry.name}() has other arguments off the graph than before")
        leaves = list(leaves)
        for i, value in entry.constants.items():
            leaves[i] = self._constant(entry.name, i, leaves[i], value)
        return leaves

    def finish(self) -> None:
        """Refuse a replay that ended early."""
        if self._next != len(self._entries):
            raise ReplayMismatchError(f"{self._next} calls on the graph, {len(self._entries)} before")

    def _take(self, name: str) -> _Entry:
        if self._next == len(self._entries):
            raise ReplayMismatchError(f"{name}() is one call on the graph more than the {len(self._entries)} before")
        entry = self._entries[self._next]
        if entry.name != name:
            raise ReplayMismatchError(f"call {self._next} on the graph is {name}(), it was {entry.name}()")
        self._next += 1
        return entry

    @staticmethod
    def _constant(name: str, place: int, leaf: Any, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if leaf.shape != value.shape:
            raise ReplayMismatchError(
                f"an argument of {name}() has shape {list(leaf.shape)}, it had {list(value.shape)}"
            )
        if place == 0 and _writes_first(name):  # the destination stays the caller's own, with the old content
            with torch.no_grad():
                return leaf.copy_(value)
        return value


def _is_constant(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        return not leaf.requires_grad
    return isinstance(leaf, int | float | complex)


def _writes_first(name: str) -> bool:
    return bool(_INPLACE_OPERATORS.fullmatch(name)) or (name.endswith("_") and not name.endswith("__"))


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", func))


@contextlib.contextmanager
def _functions_through(call: Callable[..., Any]) -> Iterator[None]:
    """Custom autograd functions are not torch calls: send their `apply` the same way."""
    base = torch.autograd.Function
    original = base.__dict__["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        return call(original.__get__(None, cls), args, kwargs)

    base.apply = classmethod(apply)  # type: ignore[assignment]
    try:
        yield
    finally:
        base.apply = original  # type: ignore[method-assign]
