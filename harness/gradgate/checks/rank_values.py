"""What the own lines of a run compute, in one process and in each of several, and what of it a share explains.

A number of several processes is explained where each has that of one process, or where theirs add up to it, or where
they hold its items between them. What is not explained is where a wrong line may be; whether it is one, a trial says.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from math import inf
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradgate.checks.own_lines import Line, OwnLines, arguments_of, names_at, statement_at, value_of

LARGEST = 20_000  # elements of a tensor that is kept, items of a list
DEEP = 3  # levels of lists, fields and keys that are looked into
CLOSE = 1e-6
RANDOM = "the state of torch's generator"


@dataclass(frozen=True)
class Point:
    """Where a value comes to be.

    Args:
        file, line: of the statement; of what returns, the function's first.
        kind: `name` of a local, `return` of a function, `argument` of a call, or `random`.
        name: of the local, the function or the argument.
    """

    file: str
    line: int
    kind: str
    name: str
    code_line: int = 0  # first of the function that is called


@dataclass(frozen=True)
class Seen:
    """A value that came to be at a point, at a line of its own: a function may return at several."""

    point: Point
    line: int
    value: Any
    given: Any = None  # to the function that returns it: its first list of numbers


class ValueLines(OwnLines):
    """The values that own lines compute.

    Attributes:
        seen: in order, as `plain` gives them.
        raw: the values themselves, by point; only kept where `keeps`.
        graphs: points whose values are on a graph.
    """

    within = False

    def __init__(self, source: Path | None, *, keeps: bool = False) -> None:
        super().__init__(source)
        self.keeps = keeps
        self.seen: list[Seen] = []
        self.raw: dict[Point, list[Any]] = {}
        self._given_to: dict[int, Any] = {}
        self.graphs: set[Point] = set()
        self._known: dict[int, dict[str, tuple[Any, Any]]] = {}
        self._random = _random()

    def behind(self, line: Line) -> None:
        """Note what has another value than before the line."""
        frame = self.frames[-1]
        known = self._known.setdefault(id(frame), {})
        statement = statement_at(line)
        at = statement.lineno if statement is not None else line[1]
        for name in names_at(line):
            value = value_of(frame, name)
            token = _token(value)
            if token is not None and known.get(name, (None,))[0] != token:
                known[name] = (token, value)  # held, so that its id is not another's
                self.note(Point(line[0].co_filename, at, "name", name), value, frame)
        now = _random()
        if now and now != self._random:
            self._random = now
            self.note(Point(line[0].co_filename, line[1], "random", RANDOM), now, frame)

    def entering(self, frame: FrameType) -> None:
        """Note the arguments of an own function, at the line that gives them."""
        if not self.frames or not self.is_own(frame.f_code):
            return
        code, caller = frame.f_code, self.now()
        known = self._known[id(frame)] = {}
        for name in arguments_of(code):
            value = frame.f_locals.get(name)
            known[name] = (_token(value), value)
            if isinstance(value, list | tuple | range) and id(frame) not in self._given_to:
                self._given_to[id(frame)] = plain(value)
            if caller is not None and name not in ("self", "cls"):
                point = Point(caller[0].co_filename, caller[1], "argument", name, code.co_firstlineno)
                self.note(point, value, frame)

    def leaving(self, frame: FrameType, value: Any) -> None:
        """Note what a function gives back, where it does."""
        self._known.pop(id(frame), None)
        given = self._given_to.pop(id(frame), None)
        code = frame.f_code
        if not code.co_flags & inspect.CO_GENERATOR and value is not None and not code.co_name.startswith("<"):
            statement = statement_at((code, frame.f_lineno))
            at = statement.lineno if statement is not None else frame.f_lineno
            self.note(Point(code.co_filename, code.co_firstlineno, "return", code.co_name), value, frame, at, given)

    def remember(self, frame: FrameType, name: str, value: Any) -> None:
        """A local has a value that is not to be noted."""
        self._known.setdefault(id(frame), {})[name] = (_token(value), value)

    def note(
        self,
        point: Point,
        value: Any,
        frame: FrameType,  # noqa: ARG002 - for subclasses
        line: int | None = None,
        given: Any = None,
    ) -> None:
        """Keep a value that came to be."""
        told = plain(value)
        if told is None:
            return
        self.seen.append(Seen(point, point.line if line is None else line, told, given))
        if self.keeps:
            self.raw.setdefault(point, []).append(_kept(value))
            if isinstance(value, Tensor) and value.requires_grad:
                self.graphs.add(point)


def plain(value: Any, depth: int = 0) -> Any:
    """A value as what can be compared and sent: a number, an array, a tuple of such; None for what is neither."""
    if isinstance(value, bool):
        return None  # who leads, or whether there are several
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, nn.Parameter | torch.Size):
        return None
    if isinstance(value, Tensor):
        return _array(value)
    if depth >= DEEP:
        return None
    if isinstance(value, Mapping):
        return _items([value[key] for key in value if isinstance(key, str | int)], depth)
    if isinstance(value, list | tuple | range):
        return _items(value, depth)
    if is_dataclass(value) and not isinstance(value, type):
        return _items([getattr(value, field.name, None) for field in fields(value)], depth)
    return None


def _items(values: Sequence[Any], depth: int) -> tuple[Any, ...] | None:
    if len(values) > LARGEST:
        return None
    told = tuple(plain(value, depth + 1) for value in values)
    return told if any(each is not None for each in told) or not values else None


def _array(tensor: Tensor) -> Any:
    spread = hasattr(tensor, "full_tensor") or tensor.numel() > LARGEST or tensor.is_sparse
    if spread or tensor.device.type != "cpu" or tensor.is_complex():
        return None
    with suppress(Exception):  # fake tensors
        return tensor.detach().double().numpy().copy()
    return None


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.copy(value) if isinstance(value, list | dict) else value


def _token(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (id(value), value._version) if not value.is_inference() else id(value)
    if isinstance(value, bool | Real):
        return (type(value), value)
    if isinstance(value, list | tuple | dict | range):
        return (id(value), len(value))
    return id(value) if is_dataclass(value) else None


def _random() -> bytes:
    with suppress(Exception):  # under a mode of fake tensors, as where a module is sharded
        return bytes(torch.default_generator.get_state().numpy().tobytes())
    return b""


def is_same(one: Any, other: Any) -> bool:
    """Whether two values agree but for rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or abs(one - other) <= CLOSE * abs(other) < inf or (one != one and other != other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and (np.array_equal(one, other) or bool(_near(one, other).all()))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(type(one) is type(other) and one == other)


def _near(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> Any:
    size = float(np.abs(one[np.isfinite(one)]).max(initial=0.0))
    return np.isclose(one, other, rtol=CLOSE, atol=CLOSE * size, equal_nan=True)


def is_explained(whole: Any, parts: Sequence[Any]) -> bool:
    """Whether the values of several processes are each that of one, or make it up between them; also where nothing can
    be said."""
    if whole is None or any(part is None for part in parts) or any(type(part) is not type(whole) for part in parts):
        return True
    if all(is_same(whole, part) for part in parts):
        return True
    if isinstance(whole, float):
        return is_same(whole, sum(parts))
    if isinstance(whole, np.ndarray):
        if any(part.shape != whole.shape for part in parts):
            return True
        same = np.logical_and.reduce([_near(whole, part) for part in parts])
        return bool((same | _near(whole, np.add.reduce(parts))).all())
    if isinstance(whole, tuple):
        if all(len(part) == len(whole) for part in parts):
            return all(is_explained(item, items) for item, *items in zip(whole, *parts, strict=True))
        return not all(map(are_numbers, [whole, *parts])) or Counter(whole) == sum(map(Counter, parts), Counter())
    return False


def are_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, as `plain` gives it."""
    return isinstance(value, tuple) and all(isinstance(item, float) for item in value)


def is_sum(whole: Any, parts: Sequence[Any]) -> bool:
    """Whether numbers or arrays of several processes, not the same ones, add up to those of one."""
    if isinstance(whole, tuple):
        pairs = list(zip(whole, *parts, strict=False))
        return all(len(part) == len(whole) for part in parts) and any(is_sum(item, items) for item, *items in pairs)
    if not isinstance(whole, float | np.ndarray) or all(is_same(whole, part) for part in parts):
        return False
    return is_explained(whole, parts)


def ratio(whole: Any, parts: Sequence[Any]) -> float | None:
    """By how many times the sum of the parts is too large, or too small: a whole number, or one over it; else None."""
    if not isinstance(whole, float | np.ndarray) or any(np.shape(part) != np.shape(whole) for part in parts):
        return None
    total, size = np.asarray(sum(parts)), float(np.square(np.asarray(whole)).sum())
    if not size or not np.isfinite(size):
        return None
    factor = float((total * whole).sum() / size)
    fits = np.allclose(total, factor * np.asarray(whole), rtol=1e-5, atol=1e-5 * size**0.5)
    counts = factor > 0 and any(abs(number - round(number)) < 1e-4 * number for number in (factor, 1 / factor))
    return factor if fits and counts and abs(factor - 1) > 1e-3 else None


def are_of_the_group(whole: Any, parts: Sequence[Any]) -> bool:
    """Whether values differ in what tells a process's place alone: the count of processes, or its rank."""
    if isinstance(whole, tuple) and all(isinstance(part, tuple) and len(part) == len(whole) for part in parts):
        pairs = [(item, items) for item, *items in zip(whole, *parts, strict=True)]
        apart = [(item, items) for item, items in pairs if not all(is_same(item, other) for other in items)]
        return bool(apart) and all(are_of_the_group(item, items) for item, items in apart)
    if not isinstance(whole, float):
        return False
    numbers = list(parts)
    return (whole == 1.0 and all(n == len(numbers) for n in numbers)) or (
        whole == 0.0 and numbers == [float(n) for n in range(len(numbers))]
    )


def by_point(seen: Sequence[Seen]) -> dict[Point, list[Any]]:
    """The values of each point, in order."""
    found: dict[Point, list[Any]] = {}
    for each in seen:
        found.setdefault(each.point, []).append(each.value)
    return found


def compared(
    alone: Sequence[Seen], ranks: Sequence[Sequence[Seen]], *, ended: bool
) -> Iterator[tuple[Point, list[tuple[int, Any, list[Any]]]]]:
    """Points that one process and each of several pass equally often, in the order of their first value; with the
    values: of one, and of each of several. Where a process has `ended` early, it may have passed them less often."""
    whole, parts = by_point(alone), [by_point(seen) for seen in ranks]
    for point in {each.point: None for seen in ranks for each in seen}:
        values = [part.get(point, []) for part in parts]
        count = len(whole.get(point, []))
        shortest = min(map(len, values))
        if shortest and all(len(value) == count or (ended and len(value) < count) for value in values):
            yield point, [(n, whole[point][n], [value[n] for value in values]) for n in range(shortest)]
