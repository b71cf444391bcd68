"""Calls of a trainer's functions while it steps: what each was given, its variables in the end, and what it gave."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks.own_lines import arguments_of
from gradgate.subjects.places import RETURN, is_called, profiled

_DEEP = 4  # objects and containers in others that are copied
_LONG = 256  # entries of one that are


@dataclass(frozen=True, slots=True)
class Call:
    """One that ended.

    Args:
        code: of the function.
        given: its arguments as they were when it began, with what they hold, modules too.
        live: its arguments themselves, with their graphs.
        variables: local variables as they are in the end, and what it gives back as `return`.
    """

    code: CodeType
    given: Mapping[str, Any]
    live: Mapping[str, Any]
    variables: Mapping[str, Any]


class Recorded:
    """The calls of some functions within a block.

    Args:
        names: of functions, or the ends of their qualified names (`Critic.targets`).
        most: calls of one function that are told; those behind them are not copied.
        tell: called with the name and the call where one ends, while all is as the function left it; raises nothing.
        writes: whether a function writes into modules, as far as that is known; what is learned here is put in. Modules
            are copied for those that do, and for those of which it is not known.
    """

    def __init__(
        self,
        names: Iterable[str],
        most: int,
        tell: Callable[[str, Call], None],
        writes: MutableMapping[CodeType, bool] | None = None,
    ) -> None:
        self.counts: dict[str, int] = dict.fromkeys(names, 0)
        self._most, self._tell = most, tell
        self._writes: MutableMapping[CodeType, bool] = {} if writes is None else writes
        self._unknown: set[CodeType] = set()
        self._open: dict[FrameType, tuple[dict[str, Any], dict[str, Any], list[_Pair]]] = {}
        self._known: dict[CodeType, list[str]] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Note calls that begin and end within the block."""
        try:
            with profiled(self._note):
                yield
        finally:
            self._open.clear()

    def _note(self, frame: FrameType, event: str, value: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        names = self._known.get(code)
        if names is None:
            names = self._known[code] = [name for name in self.counts if is_called(code, name)]
        if not names or all(self.counts[name] >= self._most for name in names):
            return
        if event == "call":
            live = {name: frame.f_locals.get(name) for name in arguments_of(code)}
            if code not in self._writes:
                self._writes[code] = False
                self._unknown.add(code)
            pairs: list[_Pair] | None = [] if code in self._unknown or self._writes[code] else None
            self._open[frame] = {name: copied(each, pairs) for name, each in live.items()}, live, pairs or []
        elif (begun := self._open.pop(frame, None)) is not None:
            given, live, copies = begun
            self._writes[code] = self._writes[code] or any(map(_differ, copies))
            call = Call(code, given, live, {**frame.f_locals, RETURN: value})
            for name in names:
                self.counts[name] += 1
                self._tell(name, call)


_Pair = tuple[nn.Module, nn.Module]


def copied(value: Any, modules: list[_Pair] | None = None, depth: int = 0) -> Any:
    """A value as it is now: tensors and containers of them copied, objects with copies of what they hold.

    Args:
        value: anything.
        modules: where they are copied, too: what gets each of them with its copy. A module that comes twice is copied
            once.
        depth: in how many others it is.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, nn.Module):
        return value if modules is None else _module(value, modules)
    if depth < _DEEP and type(value) in (list, tuple) and len(value) <= _LONG:
        return type(value)(copied(each, modules, depth + 1) for each in value)
    if depth < _DEEP and type(value) is dict and len(value) <= _LONG:
        return {key: copied(each, modules, depth + 1) for key, each in value.items()}
    if (
        depth < _DEEP
        and hasattr(value, "__dict__")
        and not isinstance(value, torch.optim.Optimizer | type)
        and not callable(value)
    ):
        return _object(value, modules, depth)
    return value


def _module(value: nn.Module, modules: list[_Pair]) -> nn.Module:
    known = next((twin for one, twin in modules if one is value), None)
    if known is not None:
        return known
    if "_parameters" not in vars(value):  # one that is about to be made
        return value
    try:
        twin = copy.deepcopy(value)
    except Exception:  # one that does not let itself be copied
        return value
    modules.append((value, twin))
    return twin


def _differ(pair: _Pair) -> bool:
    one, other = (dict(each.state_dict()) for each in pair)
    return any(
        isinstance(value, Tensor) and not (value.shape == other[name].shape and torch.equal(value, other[name]))
        for name, value in one.items()
    )


def _object(value: Any, modules: list[_Pair] | None, depth: int) -> Any:
    try:
        twin = copy.copy(value)
        for name, each in list(vars(value).items()):
            object.__setattr__(twin, name, copied(each, modules, depth + 1))
    except Exception:  # one that does not let itself be copied
        return value
    return twin
