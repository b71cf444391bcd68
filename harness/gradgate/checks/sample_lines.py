"""Which own line lets a sample be twice in an epoch, in it and held out, or in none: by trial.

The lists that own lines make are written down while a run starts and draws an epoch. In the place of one stands what it
should hold: each item once; without those of a list of held-out ones; or with those that are lost. What is taken out of
a list in place is put back. The first with which the samples are right is the place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from gradgate.checks.own_lines import Line, OwnLines, names_at, value_of
from gradgate.checks.rank_trials import Change, Putting
from gradgate.checks.rank_values import Point, ValueLines
from gradgate.core.finding import Location
from gradgate.core.origin import line_of_file

TRIALS = 16
SECONDS = 8.0  # of processor time, after which nothing more is tried
LONGEST = 20_000  # items of a list that is looked at
DEEP = 2  # levels of fields and keys in which a list is looked for
Row = tuple[int, ...]
Items = Sequence[Any]


class ListLines(ValueLines):
    """The lists of objects that own lines make.

    Attributes:
        lists: at each point, in the order of their first; those of each time.
        held: all lists, also within what is made.
    """

    def __init__(self, source: Path | None) -> None:
        super().__init__(source)
        self.lists: dict[Point, list[Items]] = {}
        self.held: list[Items] = []

    def note(self, point: Point, value: Any, frame: FrameType, line: int | None = None, given: Any = None) -> None:  # noqa: ARG002
        """Keep a list."""
        if point.kind != "random":
            self.held += _lists_in(value)
            if point.kind != "return" and _is_list(value):  # nothing is put in there
                self.lists.setdefault(point, []).append(_copied(value))


class DropLines(OwnLines):
    """What own lines take out of lists in place.

    Args:
        source: of the subject.
        lost: whether an item must not be.
        only: put what this line takes out back, each once.

    Attributes:
        lines: that do, in order.
    """

    def __init__(self, source: Path | None, lost: Callable[[Any], bool], only: Line | None = None) -> None:
        super().__init__(source)
        self.lost, self.only = lost, only
        self.lines: dict[Line, None] = {}
        self._known: dict[int, tuple[list[Any], list[Any]]] = {}
        self._back: set[int] = set()

    def behind(self, line: Line) -> None:
        """Look at the lists that the line mentions, and at the lists in those."""
        for name in names_at(line):
            value = value_of(self.frames[-1], name)
            if isinstance(value, list) and len(value) <= LONGEST:
                for each in (value, *(item for item in value if isinstance(item, list))):
                    self._look(each, line)

    def _look(self, now: list[Any], line: Line) -> None:
        _, before = self._known.get(id(now), (now, []))
        there = {id(item) for item in now}
        for item in before:
            if id(item) not in there and self.lost(item):
                self.lines.setdefault(line)
                if line == self.only and id(item) not in self._back:
                    self._back.add(id(item))
                    now.append(item)
        self._known[id(now)] = (now, list(now))  # held, so that its id is not another's


def line_of_repeats(source: Path | None, course: Callable[[], Any], is_right: Callable[[Any], bool]) -> Location | None:
    """The line whose list has items twice; arguments as for `_Trials`."""
    lines = _traced(source, course)
    return _Trials(source, course, is_right, lines).first(lines.lists, _once)


def line_of_shared(
    source: Path | None, course: Callable[[], Any], is_right: Callable[[Any], bool], shared: int
) -> Location | None:
    """The line whose list has items that another list holds out.

    Args:
        source: as for `_Trials`.
        course: as well.
        is_right: as well.
        shared: how many samples both have.
    """
    lines = _traced(source, course)
    sets = {frozenset(map(_key, held)) for held in lines.held}
    sets = {keys for keys in sets if len(keys) == shared}
    trials = _Trials(source, course, is_right, lines)
    by_set: dict[frozenset[Hashable], list[Point]] = {}
    for point, lists in reversed(lines.lists.items()):
        whole = frozenset(map(_key, lists[-1]))
        for keys in sets:
            if keys < whole:
                by_set.setdefault(keys, []).append(point)
    for keys, points in by_set.items():  # what is made last comes first, and its list is followed back
        repairing = [point for point in points if trials.repairs(point, _without, keys)]
        if repairing:
            return line_of_file(repairing[-1].file, repairing[-1].line)
    return None


def line_of_lost(
    source: Path | None, course: Callable[[], Any], is_right: Callable[[Any], bool], rows: Sequence[Row]
) -> Location | None:
    """The line that drops items, or makes a list that lacks them.

    Args:
        source: as for `_Trials`.
        course: as well.
        is_right: as well.
        rows: the tokens of those that are lost.
    """
    wanted = set(rows)
    drops = DropLines(source, lambda item: _is_of(item, wanted))
    with drops.on():
        course()
    for line in list(drops.lines)[:TRIALS]:
        with DropLines(source, lambda item: _is_of(item, wanted), line).on():
            run = course()
        if is_right(run):
            return line_of_file(line[0].co_filename, line[1], line[0].co_name)
    lines = _traced(source, course)
    lost = {_key(item): item for held in lines.held for item in held if _is_of(item, wanted)}
    kinds = {type(item) for item in lost.values()}
    points = (point for point, lists in lines.lists.items() if any(type(item) in kinds for item in lists[-1]))
    return _Trials(source, course, is_right, lines).first(points, _with, tuple(lost.values()))


def _traced(source: Path | None, course: Callable[[], Any]) -> ListLines:
    lines = ListLines(source)
    with lines.on():
        course()
    return lines


class _Trials:
    """Other lists in the place of those at a point, so many times.

    Args:
        source: of the subject.
        course: starts and draws an epoch; gives what `is_right` is asked about.
        is_right: whether the samples are.
        lines: the lists.
    """

    def __init__(
        self, source: Path | None, course: Callable[[], Any], is_right: Callable[[Any], bool], lines: ListLines
    ) -> None:
        self.source, self.course, self.is_right, self.lists = source, course, is_right, lines.lists
        self.left, self.end = TRIALS, time.process_time() + SECONDS

    def repairs(self, point: Point, make: Callable[[Items, Any], Items], given: Any) -> bool:
        """Whether the samples are right with other lists at a point; False where no trial is left.

        Args:
            point: where.
            make: makes another list of one.
            given: what with.
        """
        instead = [make(items, given) for items in self.lists[point]]
        if self.left == 0 or time.process_time() > self.end or all(map(_are_same, instead, self.lists[point])):
            return False
        self.left -= 1
        try:
            with Putting(self.source, [Change(point, instead)], 0, 1).on():
                run = self.course()
            return self.is_right(run)
        except Exception:  # what the subject makes of other lists is its own
            return False

    def first(self, points: Iterable[Point], make: Callable[[Items, Any], Items], given: Any = ()) -> Location | None:
        """The first point at which other lists repair."""
        found = next((point for point in points if self.repairs(point, make, given)), None)
        return None if found is None else line_of_file(found.file, found.line)


def _are_same(one: Items, other: Items) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _once(items: Items, _given: Any) -> Items:
    return type(items)({_key(item): item for item in items}.values())  # type: ignore[call-arg]


def _without(items: Items, given: frozenset[Hashable]) -> Items:
    return type(items)(item for item in items if _key(item) not in given)  # type: ignore[call-arg]


def _with(items: Items, given: tuple[Any, ...]) -> Items:
    there = {_key(item) for item in items}
    kinds = {type(item) for item in items}
    return type(items)([*items, *(item for item in given if type(item) in kinds and _key(item) not in there)])  # type: ignore[call-arg]


def _key(item: Any) -> Hashable:
    """What tells an item from others: its value where that is a row's, else itself."""
    try:
        hash(key := tuple(item) if isinstance(item, list) else item)
    except TypeError:
        return id(item)
    return key


def _is_list(value: Any) -> bool:
    """Whether a value is a list of what may be samples, not of numbers."""
    return type(value) in (list, tuple) and 0 < len(value) <= LONGEST and not any(isinstance(x, Real) for x in value)


def _copied(items: Items) -> Items:
    return list(items) if isinstance(items, list) else items


def _lists_in(value: Any, depth: int = 0) -> Iterator[Items]:
    """The lists of objects that a value is, or has."""
    if _is_list(value):
        yield _copied(value)
    elif depth < DEEP and isinstance(value, Mapping):
        for item in value.values():
            yield from _lists_in(item, depth + 1)
    elif depth < DEEP and is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _lists_in(getattr(value, field.name, None), depth + 1)


def _is_of(item: Any, rows: set[Row], depth: int = 0) -> bool:
    """Whether an item is one of these rows, or has it."""
    if isinstance(item, Tensor):
        return item.dim() == 1 and not item.is_floating_point() and tuple(item.tolist()) in rows
    if isinstance(item, list | tuple) and item and all(type(token) is int for token in item):
        return tuple(item) in rows
    if depth >= DEEP:
        return False
    if isinstance(item, Mapping):
        return any(_is_of(inner, rows, depth + 1) for inner in item.values())
    if is_dataclass(item) and not isinstance(item, type):
        return any(_is_of(getattr(item, field.name, None), rows, depth + 1) for field in fields(item))
    return False
