"""Which own line makes two runs differ that should be one.

What own lines compute is written down in both. The first value that differs is a candidate; so is each later one, since
a time that was taken differs too, and nothing comes of it. The value of the one run is put into the other, and the
first with which both agree is the place. A tensor on a graph is believed without a trial, for its gradient cannot be
put in, and no time that is only reported is on one.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from gradgate.checks.rank_trials import Change, Putting
from gradgate.checks.rank_values import Point, ValueLines, plain
from gradgate.core.finding import Location
from gradgate.core.origin import line_of_file

TRIALS = 12
SECONDS = 8.0  # of processor time, after which nothing more is tried


@dataclass(frozen=True)
class _Noted:
    """A value that came to be.

    Args:
        point: where.
        line: of its own: a function may return at several.
        told: the value, as bytes.
        on_graph: whether it has a gradient.
    """

    point: Point
    line: int
    told: bytes
    on_graph: bool


class Course(ValueLines):
    """What own lines compute, bit for bit.

    Attributes:
        noted: in order.
    """

    def __init__(self, source: Path | None, *, keeps: bool = False) -> None:
        super().__init__(source, keeps=keeps)
        self.noted: list[_Noted] = []

    def note(self, point: Point, value: Any, frame: FrameType, line: int | None = None, given: Any = None) -> None:
        """Keep a value that came to be; what a generator holds is no value of a line."""
        told = None if point.kind == "random" else plain(value)
        if told is None:
            return
        on_graph = isinstance(value, Tensor) and value.requires_grad
        self.noted.append(_Noted(point, point.line if line is None else line, pickle.dumps(told), on_graph))
        if self.keeps and not on_graph:
            super().note(point, value, frame, line, given)


def line_of_parting_runs(
    source: Path | None, first: Callable[[], Any], second: Callable[[], Any], agree: Callable[[Any, Any], bool]
) -> Location | None:
    """The line at which the second run leaves the first; None where none is sure.

    Args:
        source: of the subject.
        first: runs, and gives what `agree` compares.
        second: runs, and gives something else.
        agree: whether two runs are one.
    """
    end = time.process_time() + SECONDS
    one, other = Course(source, keeps=True), Course(source)
    with one.on():
        result = first()
    with other.on():
        second()
    returned: dict[bytes, _Noted] = {}
    tried: set[Point] = set()
    for ours, theirs in zip(one.noted, other.noted, strict=False):
        if ours.point != theirs.point:
            return None  # another way was taken, and nothing says why
        if ours.told == theirs.told or ours.point in tried:
            continue
        if ours.on_graph:
            return _place(returned.get(ours.told, ours))
        if ours.point.kind == "return":
            returned.setdefault(ours.told, ours)
            continue
        tried.add(ours.point)
        if len(tried) > TRIALS or time.process_time() > end:
            return None
        with Putting(source, [Change(ours.point, one.raw[ours.point])], 0, 1).on():
            again = second()
        if agree(result, again):
            return _place(returned.get(ours.told, ours))
    return None


def _place(noted: _Noted) -> Location:
    return line_of_file(noted.point.file, noted.line)
