"""Rows of batches among what a running program holds as an update is begun, and the update that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from gradgate.checks.held_in_frames import Held

Moment = Mapping[str, Held]


def update_of_rows(moments: Mapping[int, Moment], now: Moment, start: int) -> int | None:
    """The update whose rows a program holds, by its number from 0, where they are not those of the one that it begins.

    Rows are tensors that are another object and others at each update.

    Args:
        moments: of one stage of a run without a stop, by the number of the update.
        now: behind a resume.
        start: the update that it begins with.

    Returns:
        The update; None: the rows are those of `start`, or of none, or of several.
    """
    found: set[int] = set()
    for name in _rows(moments) & now.keys():
        same = {number for number, moment in moments.items() if _digest(moment, name) == now[name].digest}
        if start in same:
            return None
        found |= same
    return found.pop() if len(found) == 1 else None


def _rows(moments: Mapping[int, Moment]) -> set[str]:
    """The tensors that no two updates of a stage have alike, and that are in no object which lives on."""
    names = {name for moment in moments.values() for name, held in moment.items() if held.kind == "tensor"}
    return {name for name in names if _is_of_rows([each[name] for each in moments.values() if name in each])}


def _is_of_rows(values: list[Held]) -> bool:
    pairs = list(pairwise(values))
    unlike = len({each.digest for each in values}) == len(values) > 1
    return unlike and all(one.root != other.root for one, other in pairs)


def _digest(moment: Moment, name: str) -> str:
    return moment[name].digest if name in moment else ""
