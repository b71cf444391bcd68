"""Which own line puts another number under a metric's name: where what is called so stops to be what it was."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from math import isclose
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from gradgate.checks.leaks import are_apart
from gradgate.checks.own_lines import Line, OwnLines, names_at, statement_at, value_of
from gradgate.checks.traced import Traced

CLOSE = 1e-6  # shares; numbers of one step in float64, added up or read back
Step = Callable[[], object]


def word_of(name: str) -> str:
    """What a metric is called, without the group it is of."""
    return re.split(r"[/.]", name.lower())[-1].removeprefix("train_")


class MetricLines(OwnLines):
    """The numbers that locals, items, fields and functions of one name have, line by line.

    Args:
        source: as for `OwnLines`.
        word: the name, as `word_of` gives it.
    """

    within = False

    def __init__(self, source: Path | None, word: str) -> None:
        super().__init__(source)
        self.word = word
        self.seen: list[tuple[Line, float]] = []

    def behind(self, line: Line) -> None:
        """Look at what the line mentions."""
        for name in names_at(line):
            self._note(line, name, value_of(self.frames[-1], name))

    def leaving(self, frame: FrameType, value: Any) -> None:
        """Look at what a function gives."""
        self._note((frame.f_code, frame.f_lineno), frame.f_code.co_name, value)

    def _note(self, line: Line, name: str, value: Any) -> None:
        number = _number(value) if word_of(name) == self.word else None
        held = [number] if number is not None else [_number(item) for key, item in _items(value) if self._is(key)]
        self.seen += [(line, number) for number in held if number is not None]

    def _is(self, key: Any) -> bool:
        return isinstance(key, str) and word_of(key) == self.word


def line_of_wrong_number(step: Step, source: Path | None, metric: str, reported: float, right: float) -> Line | None:
    """The first line behind which something with a metric's name has the number that is reported.

    None where something of that name had a number before that is neither of the two: what was added up or divided on
    the way is not known.

    Args:
        step: the step, from the same point as before.
        source: of the subject.
        metric: its name.
        reported: what the step says.
        right: what it should say.
    """
    for line, number in _seen(step, source, metric):
        if not _same(number, right):
            return _at_name(line, word_of(metric)) if _same(number, reported) else None
    return None


def line_of_difference(steps: tuple[Step, Step], source: Path | None, metric: str) -> Line | None:
    """The first line behind which something with a metric's name differs between two steps that it must be alike in.

    None where that line only hands on what differs already: its operations, where it has any, must take in what is
    alike as well.

    Args:
        steps: from the same point each time.
        source: of the subject.
        metric: its name.
    """
    for (line, one), (other_line, other) in zip(*(_seen(step, source, metric) for step in steps), strict=False):
        if line != other_line:
            return None
        if not _same(one, other):
            return _at_name(line, word_of(metric)) if _lets_in(steps, source, line) else None
    return None


def _lets_in(steps: tuple[Step, Step], source: Path | None, line: Line) -> bool:
    """Whether an operation of a statement is given both what differs and what does not; also where it has none."""
    sides = [Traced(source) for _ in steps]
    for side, step in zip(sides, steps, strict=True):
        with side:
            step()
    statement = statement_at(line)
    lines = range(line[1], (statement.end_lineno or line[1]) + 1) if statement is not None else (line[1],)
    before = {(done.site, done.number): done for done in sides[0].done}
    here = [done for done in sides[1].done if done.site.code is line[0] and done.place.line in lines]
    pairs = [(before[done.site, done.number], done) for done in here if (done.site, done.number) in before]
    told = [[_moves(one.given.get(key), given) for key, given in other.given.items()] for one, other in pairs]
    return not told or any(True in moved and False in moved for moved in told)


def _moves(one: Tensor | None, other: Tensor) -> bool:
    return one is None or are_apart(one, other)


def _seen(step: Step, source: Path | None, metric: str) -> list[tuple[Line, float]]:
    lines = MetricLines(source, word_of(metric))
    with lines.on():
        step()
    return lines.seen


def _same(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=CLOSE, abs_tol=1e-12) or (one != one and other != other)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value.detach()) if value.numel() == 1 and not value.is_complex() else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a value holds, by name."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name, None)) for field in fields(value))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)


def _at_name(line: Line, word: str) -> Line:
    """In a statement over several lines, the line of what is given by that name."""
    statement = statement_at(line)
    for node in ast.walk(statement) if statement is not None else ():
        pairs: list[tuple[str, ast.expr]] = []
        if isinstance(node, ast.Dict):
            pairs = [(str(key.value), value) for key, value in zip(node.keys, node.values, strict=True)
                     if isinstance(key, ast.Constant)]  # fmt: skip
        elif isinstance(node, ast.Call):
            pairs = [(given.arg, given.value) for given in node.keywords if given.arg]
        for name, value in pairs:
            if word_of(name) == word:
                return line[0], value.lineno
    return line
