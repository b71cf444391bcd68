"""Alone: one side counted and timed without another to compare with, for a new benchmark and for stored baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gradgate.compare.job import Job
from gradgate.compare.processes import zygote
from gradgate.compare.turns import steps_a_turn
from gradgate.core.errors import GradgateError
from gradgate.gates.counts import Counts
from gradgate.gates.timing import Sample


@dataclass(frozen=True, slots=True)
class Alone:
    """One side.

    Args:
        counts: its exact counters.
        steps: steps a round.
        rounds: the raw turns.
        environment: what the numbers depend on.
        notes: for the reader.
    """

    counts: Counts
    steps: int
    rounds: tuple[Sample, ...]
    environment: dict[str, Any]
    notes: tuple[str, ...] = ()


def measure_alone(job: Job, side: str, rounds: int, on_progress: Callable[[str], None]) -> Alone:
    """Count one side and time some rounds of it, in a fresh process.

    Args:
        job: as for a comparison.
        side: base or head.
        rounds: how many; 0: count only.
        on_progress: told what is being done.

    Raises:
        GradgateError: the target is missing, is no factory, or does not run.
        DiedError: the worker was killed or crashed.
    """
    with zygote() as fresh, fresh.started(replace(job, lone=side)) as worker:
        counted = _expected(worker.answer(on_progress), "counts")
        ready = _expected(worker.answer(on_progress), "ready")
        steps = steps_a_turn(ready["step_s"])
        samples = []
        for number in range(rounds):
            on_progress(f"timing, block {number + 1} of {rounds}")
            worker.send(str(steps))
            samples.append(Sample(*_expected(worker.answer(on_progress), "sample")))
        return Alone(Counts.from_tree(counted), steps, tuple(samples), ready["environment"], tuple(ready["notes"]))


def _expected(answer: dict[str, Any], key: str) -> Any:
    if "missing" in answer:
        raise GradgateError("{} has {}".format(*answer["missing"]))
    if "broken" in answer:
        raise GradgateError("{side}, while {doing}: {error}".format(**answer["broken"]))
    return answer[key]
