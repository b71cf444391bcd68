"""Where several processes part from one: looked for once a check has seen that they do.

The own lines of one process and of several are traced. A value of several that is neither that of one nor its share is
a candidate; so is a number that is only a share. The value of one process is put in there, and all run again: the first
with which they give what one process gives is the place. What no value repairs is looked for in how gradients are
exchanged: which wrapper, which module beside it, which backward.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from gradgate.checks.own_lines import searched
from gradgate.checks.rank_facts import Backward, FactLines, Facts, Started, run_of
from gradgate.checks.rank_trials import Change, Putting
from gradgate.checks.rank_values import (
    Point,
    are_numbers,
    are_of_the_group,
    compared,
    is_explained,
    is_same,
    is_sum,
    ratio,
)
from gradgate.checks.ranks import WORLD, Rank, together
from gradgate.core.finding import Location
from gradgate.core.origin import line_of_file

SECONDS = 40.0  # for all trials
TRIALS = 24
HANGS = 20.0  # seconds for one
FEW = 64  # numbers
ROUNDED = 0.05  # share of the largest gradient that sixteen bits may cost
Course = Callable[[Any, Started], Any]  # of a way to start


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Args:
        source: of the subject.
        alone: starts one process.
        several: starts one of several.
        course: runs what was started, and gives what `is_right` is asked about.
        is_right: whether what several gave is right.
        gradients: of what a course gave; by parameter, in the order of the parameters.
        seed: of all.
        folder: for the groups.
        world: how many several are.
    """

    source: Path | None
    alone: Any
    several: Any
    course: Course
    is_right: Callable[[Sequence[Any]], bool]
    gradients: Callable[[Any], Mapping[str, Any]]
    seed: int
    folder: Path
    world: int = WORLD


def line_of_difference(search: Search) -> Location | None:
    """The line at which several processes part from one; None where none is sure."""
    return searched(partial(_found, search), search.seed)


def _found(search: Search) -> Location | None:
    lines = FactLines(search.source, keeps=True)
    whole, alone = run_of(partial(search.course, search.alone), lines)
    ended = together(lambda _: _traced(search), search.folder / "traced", world=search.world, seconds=2 * HANGS)
    if any(each.value is None for each in ended):
        return None
    facts = [each.value[1] for each in ended]
    values = [each.value[0] for each in ended]
    if not any(value is None for value in values) and search.is_right(values):
        return None
    parted = _of_share(alone, facts)
    if parted is not None:
        return parted
    first, then = _candidates(alone, facts, lines)
    end = time.monotonic() + SECONDS
    point = _repairing(search, first, end)
    if point is None and any(value is None for value in (whole, *values)):
        return _of_sharding(facts[0]) or (_of_manager(facts[0].backwards, changes=False) if facts[0].kept else None)
    if point is None:
        where = _of_exchange(search.gradients(whole), [search.gradients(value) for value in values], alone, facts)
        if where is not None:
            return where
        point = _repairing(search, then, end)
    return _place(point, _line_of(point, facts)) if point is not None else None


def _of_share(alone: Facts, facts: Sequence[Facts]) -> Location | None:
    """What gives one process all of a list, and several not each item once."""
    whole = {seen.point for seen in alone.seen if are_numbers(seen.given) and is_same(seen.value, seen.given)}
    calls = [[seen for seen in each.seen if seen.point in whole] for each in facts]
    for one, *others in zip(*calls, strict=False):
        values = [each.value for each in (one, *others)]
        alike = all(each.point == one.point and is_same(each.given, one.given) for each in others)
        shares = all(are_numbers(v) and len(v) < len(one.given) and set(v) <= set(one.given) for v in values)
        if alike and shares and Counter(one.given) != Counter(chain.from_iterable(values)):
            return _place(one.point, one.line)
    return None


def _repairing(search: Search, candidates: Sequence[Sequence[Change]], end: float) -> Point | None:
    for changes in candidates[:TRIALS]:
        if time.monotonic() > end:
            return None
        if _repairs(search, changes):
            return changes[0].point
    return None


def _traced(search: Search) -> tuple[Any, Facts]:
    return run_of(partial(search.course, search.several), FactLines(search.source))


def _repairs(search: Search, changes: Sequence[Change]) -> bool:
    def work(rank: int) -> Any:
        value, facts = run_of(
            partial(search.course, search.several), Putting(search.source, changes, rank, search.world)
        )
        return None if facts.error else value

    ended: list[Rank] = together(work, Path(mkdtemp(dir=search.folder)), world=search.world, seconds=HANGS)
    return all(each.value is not None for each in ended) and search.is_right([each.value for each in ended])


def _candidates(
    alone: Facts, facts: Sequence[Facts], lines: FactLines
) -> tuple[list[list[Change]], list[list[Change]]]:
    """What may repair, line by line. First the state of the generator, what is the same in all processes and not
    that of one, and what is so many times too large; then numbers that are a share only, the last first, and others."""
    kinds: list[dict[Any, list[Change]]] = [{} for _ in range(5)]
    random, same, scaled, shares, others = kinds
    known: set[bytes] = set()
    ended = any(each.error for each in facts)
    for point, values in compared(alone.seen, [each.seen for each in facts], ended=ended):
        own, line, whole = lines.raw[point], (point.file, point.line, point.kind), point not in lines.graphs
        apart = [(one, parts) for _, one, parts in values if not is_explained(one, parts)]
        told = pickle.dumps([(one, parts) for _, one, parts in values if not is_same(one, parts[0])])
        if not apart and not any(is_sum(one, parts) for _, one, parts in values):
            continue
        if told in known or any(are_of_the_group(one, parts) for _, one, parts in values):
            continue  # handed on, or not to be the same
        known.add(told)
        if not apart:
            if whole and point.kind != "argument" and _is_small(values[0][1]):
                shares.setdefault(line, []).append(Change(point, own))
            continue
        if point.kind == "random":
            random.setdefault("first", [Change(point, own)])
            continue
        agreed = all(is_same(parts[0], part) for _, parts in apart for part in parts)
        factors = {None if (by := ratio(one, parts)) is None else round(by, 4) for one, parts in apart}
        factor = factors.pop() if len(factors) == 1 else None
        if factor is not None and isinstance(apart[0][0], np.ndarray):
            scaled.setdefault((*line, factor), []).append(Change(point, own, factor=factor))
        if agreed and whole:
            same.setdefault(line, []).append(Change(point, own))
        elif whole and not (isinstance(own[0], list | tuple) and _is_shape(apart)) and _is_small(apart[0][0]):
            others.setdefault(line, []).append(Change(point, own))
        if isinstance(own[0], list | tuple | range) and not _is_shape(apart):
            others.setdefault((*line, "share"), []).append(Change(point, own, "share"))
    first = [*random.values(), *same.values(), *scaled.values()]
    return first, [*reversed(shares.values()), *others.values()]


def _is_shape(values: Sequence[tuple[Any, list[Any]]]) -> bool:
    """Whether values are lists of as many numbers, as shapes are, which follow how many rows there are."""
    return all(
        isinstance(one, tuple)
        and all(len(part) == len(one) for part in parts)
        and all(isinstance(x, float) for x in one)
        for one, parts in values
    )


def _is_small(value: Any) -> bool:
    """Whether a value is numbers, as what processes add up or are told is, and not what they compute with."""
    if isinstance(value, tuple):
        return len(value) <= FEW and all(item is None or _is_small(item) for item in value)
    return not isinstance(value, np.ndarray) or (value.ndim <= 1 and value.size <= FEW)


def _line_of(point: Point, facts: Sequence[Facts]) -> int:
    """Where it came to be in several processes."""
    return next((seen.line for each in facts for seen in each.seen if seen.point == point), point.line)


def _place(point: Point, line: int | None = None) -> Location:
    line = point.line if line is None else line
    return line_of_file(point.file, line)


def _of_exchange(
    whole: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], alone: Facts, facts: Sequence[Facts]
) -> Location | None:
    """Where gradients are exchanged wrongly, where the numbers say how."""
    names = [name for name in whole if np.abs(whole[name]).max(initial=0.0) > 0]
    factors = [ratio(whole[name], [parts[0][name]]) for name in names]
    equal = all(is_same(parts[0][name], part.get(name)) for part in parts for name in names)
    first = facts[0]
    local = [n for n, name in enumerate(names) if not all(is_same(parts[0][name], part[name]) for part in parts)]
    if equal and None not in factors and len({round(factor, 4) for factor in factors if factor}) == 1:
        # Losses that add up rightly become wrong gradients where they are exchanged.
        return first.wrapped[-1][0] if first.wrapped and _add_up(alone, facts) else None
    if local and all(is_explained(whole[names[n]], [part[names[n]] for part in parts]) for n in local):
        return _of_missing(first, list(whole), [names[n] for n in local])
    twice = _of_early(alone, first, len(facts))
    if twice is not None:
        return twice
    size = max(float(np.abs(whole[name]).max()) for name in names)
    apart = max(float(np.abs(whole[name] - parts[0][name]).max()) for name in names)
    once = {each.point for each in alone.seen}
    short = [point for point in first.short if point not in once]
    return _place(short[0]) if short and apart < ROUNDED * size else None


def _add_up(alone: Facts, facts: Sequence[Facts]) -> bool:
    """Whether the first losses of several processes add up to that of one."""
    if not alone.backwards or not all(each.backwards for each in facts):
        return False
    return is_same(alone.backwards[0].loss, sum(each.backwards[0].loss for each in facts))


def _of_missing(facts: Facts, names: Sequence[str], local: Sequence[str]) -> Location | None:
    """Gradients stay where they are: a module beside the wrapper, or a wrapper that is told not to exchange."""
    sharding = _of_sharding(facts)
    if sharding is not None or facts.spread:
        return sharding
    own = {names.index(name) for name in local}
    beside = [where for where, parameters in facts.beside if own & set(parameters)]
    if beside:
        return beside[-1]
    return _of_manager(facts.backwards, changes=False)


def _of_sharding(facts: Facts) -> Location | None:
    """Some parameters are spread over the processes, and some that are trained are not."""
    return facts.wrapped[-1][0] if facts.wrapped and facts.spread and facts.unspread else None


def _of_early(alone: Facts, facts: Facts, world: int) -> Location | None:
    """Gradients cross processes before the last backward of a window, and once more with it."""
    if len(alone.backwards) < 2 or len(facts.backwards) < 2:
        return None
    (one, both), (first, last) = ((np.array(b.sums) for b in each.backwards[:2]) for each in (alone, facts))
    if np.allclose(first, one, rtol=1e-5) and np.allclose(last, both + (world - 1) * one, rtol=1e-5, atol=1e-9):
        return _of_manager(facts.backwards, changes=True)
    return None


def _of_manager(backwards: Sequence[Backward], *, changes: bool) -> Location | None:
    """What is around a backward and decides whether gradients cross: what it is told, where that never changes, or
    itself."""
    last = backwards[min(1, len(backwards) - 1)] if backwards else None
    if last is None or last.manager is None:
        return last.at if last is not None and changes else None
    told = {repr(each.given) for each in backwards[:2]}
    return last.manager if len(told) > 1 else last.entered
