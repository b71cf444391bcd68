"""Split rows into training and held-out ones, whole tasks at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence

from wmtp.data.examples import Example
from wmtp.errors import DataError


def split_by_task(
    examples: Sequence[Example], heldout_fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Rows to train on and rows to hold out; all rows of a task are on the same side, in their original order.

    Args:
        examples: the rows.
        heldout_fraction: share of the tasks to hold out, above 0 and below 1; at least one task is on each side.
        seed: decides which tasks.

    Returns:
        (training rows, held-out rows).

    Raises:
        DataError: the fraction is out of range, or there are fewer than two tasks.
    """
    if not 0 < heldout_fraction < 1:
        raise DataError(f"the held-out fraction must be above 0 and below 1, got {heldout_fraction}")
    tasks = list(dict.fromkeys(example.task_id for example in examples))
    if len(tasks) < 2:
        raise DataError(f"{len(tasks)} task(s) cannot be split: training and held-out rows need at least one each")
    count = min(max(round(len(tasks) * heldout_fraction), 1), len(tasks) - 1)
    heldout = set(random.Random(seed).sample(tasks, count))  # noqa: S311 -- reproducible, not secret
    return (
        [example for example in examples if example.task_id not in heldout],
        [example for example in examples if example.task_id in heldout],
    )
