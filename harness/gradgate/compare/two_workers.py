"""The fallback: each copy in a process of its own, in turns on one core. Weaker: every turn begins with cold caches.

Ratios between processes scatter more than those inside one, so that T is 5 % and turns have at least three steps, the
first of which is thrown away. Two workers a side, started in mirrored order, stand for restarting and swapping them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from gradgate.compare.job import TWO_WORKERS, Job
from gradgate.compare.processes import Worker, Zygote
from gradgate.compare.turns import beyond_budget, steps_a_turn, timing_tree, tolerances_of
from gradgate.gates.counts import Counts
from gradgate.gates.exact import compare_counts, different_inputs
from gradgate.gates.timing import BASE, COPIES, HEAD, Copy, Sample, measure

TOLERANCE = 0.05
LEAST_STEPS = 2  # beside the one that is thrown away


def compare_apart(fresh: Zygote, job: Job, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """Answer like a worker that has both sides in one process.

    Args:
        fresh: what the workers are forked from.
        job: as for one worker.
        on_progress: told what is being done.

    Returns:
        The answer, or `missing` or `broken` of the first side that has it.

    Raises:
        DiedError: a worker was killed or crashed.
        GradgateError: the target is no factory.
    """
    with ExitStack() as stack:
        core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        workers = {copy: stack.enter_context(fresh.started(_alone(job, copy), core)) for copy in COPIES}
        ready: dict[Copy, dict[str, Any]] = {}
        counts: dict[Copy, Counts] = {}
        for copy, worker in workers.items():
            on_progress(f"loading {copy[0]} in a process of its own")
            answer = worker.answer(on_progress)
            if "counts" in answer:
                counts[copy] = Counts.from_tree(answer["counts"])
                answer = worker.answer(on_progress)
            if "ready" not in answer:
                return answer
            ready[copy] = answer["ready"]
        return _answer(job, workers, ready, counts, on_progress)


def _alone(job: Job, copy: Copy) -> Job:
    """The first head, and both of base, count: base twice, to see that it is the same twice."""
    return replace(job, lone=copy[0], count=job.count and copy != (HEAD, 2))


def _answer(
    job: Job,
    workers: Mapping[Copy, Worker],
    ready: Mapping[Copy, dict[str, Any]],
    counts: Mapping[Copy, Counts],
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    found: dict[str, Any] = {"environment": ready[BASE, 1]["environment"], "notes": ready[BASE, 1]["notes"]}
    if counts:
        base, head, again = counts[BASE, 1], counts[HEAD, 1], counts[BASE, 2]
        found["metrics"] = [metric.tree() for metric in compare_counts(base, head, again)]
        mismatch = different_inputs(base, head)
        if mismatch:
            return {**found, "mismatch": mismatch}
    step_s = max(one["step_s"] for one in ready.values())
    steps = max(LEAST_STEPS, steps_a_turn(step_s))
    untimed = beyond_budget(step_s * (steps + 1), job.budget_s)
    if untimed:
        return {**found, "untimed": untimed}
    tolerances = tolerances_of(ready[BASE, 1]["quantities"], max(TOLERANCE, job.tolerance))
    timing = measure(
        {copy: _Remote(worker, on_progress) for copy, worker in workers.items()},
        tolerances,
        steps=steps,
        budget_s=job.budget_s,
        clock=time.perf_counter,
        on_look=lambda done: on_progress(f"timing, block {done}"),
        seed=job.attempt,
    )
    return {**found, "timing": timing_tree(timing, tolerances, TWO_WORKERS)}


class _Remote:
    """A copy in another process."""

    def __init__(self, worker: Worker, on_progress: Callable[[str], None]) -> None:
        self._worker, self._on_progress = worker, on_progress

    def __call__(self, steps: int) -> Sample:
        """Have it run so many steps."""
        self._worker.send(str(steps))
        answer = self._worker.answer(self._on_progress)
        if "broken" in answer:
            raise BrokenTurnError(answer["broken"])
        return Sample(*answer["sample"])


class BrokenTurnError(Exception):
    """A side raised in the middle of the measurement. `args`: side, what it was doing, error."""
