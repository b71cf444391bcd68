"""Whether a schedule moves once a micro-batch: each update has what is declared for as many as there were of those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

from gradgate.checks.raised import calling
from gradgate.subjects.contract import Run

FEW = 5  # updates that tell
BEHIND = (-1, 0)  # micro-batches of an update that have moved the schedule when it steps: all but the last, or all


def follows_micro_batches(
    run: Run,
    count: int,
    updates_made: Callable[[], AbstractContextManager[Sequence[Any]]],
    off: Callable[[Any, int], float],
    allowed: float,
) -> bool:
    """Whether a fresh run's updates are off as they are counted, and right as micro-batches are.

    Args:
        run: that takes a micro-batch a step, or several.
        count: micro-batches of an update.
        updates_made: a block that yields the updates that are made in it.
        off: how far an update is from what is declared for a number.
        allowed: distance.
    """
    made, by_updates, by_parts = 0, 0.0, dict.fromkeys(BEHIND, 0.0)
    for batch in islice(run.batches(), FEW * count):
        with updates_made() as updates, calling(f"step of update {made + 1}"):
            run.step(batch)
        for update in updates:
            by_updates = max(by_updates, off(update, made))
            for behind in BEHIND:
                by_parts[behind] = max(by_parts[behind], off(update, count * (made + 1) + behind))
            made += 1
    return made >= FEW and by_updates > allowed and min(by_parts.values()) <= allowed
