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
    answer_apart: Callable[[int], Result],
    lost: Callable[[int, Lost], Result],
    *,
    jobs: int,
    limit: float,
    on_start: Callable[[int], None],
) -> Generator[tuple[int, Result], None, None]:
    """The result of every unit, in the order of their ends.

    Args:
        units: all of them.
        answer: the number of a unit -> its result, in this process.
        answer_apart: the same, in another one.
        lost: the number of a unit whose process was killed or died -> its result.
        jobs: most processes at a time; 0: all in this process, in their order.
        limit: seconds that an answer allows itself.
        on_start: called here with the number of a unit that begins.

    Yields:
        A unit's number and its result. Checks that want a quiet machine come last, in this process.
    """
    groups = _groups(units) if jobs else []
    order = list(chain(*groups))
    if groups:
        found = run(groups, answer_apart, jobs=jobs, timeout=limit + _OVERTIME, on_start=on_start)
        for place, result in found:
            number = order[place]
            yield number, lost(number, result) if isinstance(result, Lost) else result
    for number in sorted(set(range(len(units))) - set(order)):
        on_start(number)
        yield number, answer(number)


def _groups(units: Sequence[Unit]) -> list[list[int]]:
    """Units that share what one process keeps, first, for they take longest; then each of the others but solos."""
    shared: dict[str, list[int]] = {}
    single: list[list[int]] = []
    for number, unit in enumerate(units):
        if unit.check.group:
            shared.setdefault(unit.check.group, []).append(number)
        elif not unit.check.solo:
            single.append([number])
    return [*shared.values(), *single]
