"""Trials of places at which processes may part from one: its value is put in there, and all run once more."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.own_lines import put
from gradgate.checks.rank_facts import FactLines
from gradgate.checks.rank_values import Point

_RETURNS = "_gradgate_returns"


@dataclass(frozen=True)
class Change:
    """What is put in at a point.

    Args:
        point: where.
        values: by number of the time there; what one process has.
        part: `whole`: as it is; `share`: every so-manieth item of it, from the rank's on.
        factor: instead, by what the value there is divided.
    """

    point: Point
    values: Sequence[Any]
    part: str = "whole"
    factor: float | None = None


class Putting(FactLines):
    """Puts values in where they come to be."""

    def __init__(self, source: Path | None, changes: Sequence[Change], rank: int, world: int) -> None:
        super().__init__(source)
        self.changes = {change.point: change for change in changes if change.point.kind != "return"}
        self.times: dict[Point, int] = {}
        self.rank, self.world = rank, world
        for change in changes:
            if change.point.kind == "return":
                _wrap(change, self.instead)

    def is_own(self, code: CodeType) -> bool:
        """Only what is of a point's file, or called from there, is traced: trials are many."""
        files = {point.file for point in self.changes}
        starts = {point.code_line for point in self.changes}
        return super().is_own(code) and (code.co_filename in files or code.co_firstlineno in starts)

    def note(self, point: Point, value: Any, frame: FrameType, line: int | None = None, given: Any = None) -> None:  # noqa: ARG002
        """Put a value in, where one is to be."""
        change = self.changes.get(point)
        if change is None or not (isinstance(value, Tensor) or change.factor is None):
            return
        number = self.times.get(point, 0)
        self.times[point] = number + 1
        if number < len(change.values):
            new = self.instead(change, number, value)
            if point.kind == "random":
                torch.default_generator.set_state(torch.frombuffer(bytearray(new), dtype=torch.uint8))
                self._random = new
            else:
                put(frame, point.name, new)
                self.remember(frame, point.name, new)

    def instead(self, change: Change, number: int, value: Any) -> Any:
        """What is there instead of a value."""
        if number >= len(change.values):
            return value
        if change.factor is not None:
            return value / change.factor
        whole = change.values[number]
        if change.part == "share":
            return whole[self.rank :: self.world]
        return whole.clone().requires_grad_(value.requires_grad) if isinstance(whole, Tensor) else whole


def _wrap(change: Change, instead: Callable[[Change, int, Any], Any]) -> None:
    """Have a function give something else; for the rest of this process, which is a fork's."""
    point = change.point
    found = [
        each
        for each in gc.get_objects()
        if type(each) is FunctionType  # no proxy is asked what it is
        and (each.__code__.co_filename, each.__code__.co_firstlineno) == (point.file, point.line)
        and each.__code__.co_name == point.name
        and not each.__code__.co_freevars
    ]
    if not found:
        return
    times = 0
    function = found[0]
    original = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = function.__kwdefaults__

    def given(arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        nonlocal times
        value = original(*arguments, **named)
        times += 1
        return instead(change, times - 1, value)

    key = f"{point.file}:{point.line}"
    function.__globals__.setdefault(_RETURNS, {})[key] = given
    names: dict[str, Any] = {}
    exec(f"def w(*arguments, **named):\n return {_RETURNS}[{key!r}](arguments, named)", names)  # noqa: S102 - our own text
    function.__code__ = names["w"].__code__
