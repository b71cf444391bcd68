"""Checks in processes of their own: as many at a time as there are cores, and none can take the others with it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import chain

from gradgate.checks.tally import Unit
from gradgate.core.verdict import Result
from gradgate.core.workers import Lost, run

_OVERTIME = 10.0  # seconds that a check over its limit has to come back from C before its process is killed


def answers(
    units: Sequence[Unit],
    answer: Callable[[int], Result],
    lost: Callable[[int, Lost], Result],
    *,
    jobs: int,
    limit: float,
    on_start: Callable[[int], None],
) -> Generator[tuple[int, Result], None, None]:
    """The result of every unit, in the order of their ends.

    Args:
        units: all of them.
        answer: the number of a unit -> its result.
        lost: the number of a unit whose process was killed or died -> its result.
        jobs: most processes at a time; 0: all in this process, in their order.
        limit: seconds that `answer` allows itself.
        on_start: called here with the number of a unit that begins.

    Yields:
        A unit's number and its result. Checks that want a quiet machine come last, in this process.
    """
    solo = [number for number in range(len(units)) if not jobs or units[number].check.solo]
    apart = [number for number in range(len(units)) if number not in set(solo)]
    groups = _groups(units, apart)
    order = list(chain(*groups))
    found = run(groups, answer, jobs=max(jobs, 1), timeout=limit + _OVERTIME, on_start=on_start)
    for place, result in found:
        number = order[place]
        yield number, lost(number, result) if isinstance(result, Lost) else result
    for number in solo:
        on_start(number)
        yield number, answer(number)


def _groups(units: Sequence[Unit], numbers: Sequence[int]) -> list[list[int]]:
    """Units that share what one process keeps, first, for they take longest; then each of the others."""
    groups: dict[str, list[int]] = {}
    for number in numbers:
        if units[number].check.group:
            groups.setdefault(units[number].check.group, []).append(number)
    return [*groups.values(), *([number] for number in numbers if not units[number].check.group)]
