"""The trainer's own loop, around steps that do nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradgate.subjects.contract import Looped
from wmtp.loop import LoopState
from wmtp.loop import run as run_loop
from wmtp.metrics import MetricsFile
from wmtp.progress import quiet


class Course:
    """A stage for the trainer's loop whose steps do nothing and whose evaluations give scores."""

    name = "stage2"

    def __init__(self, scores: Sequence[float], patience: int | None, max_steps: int, eval_every: int) -> None:
        self.scores, self.patience, self.total_steps, self.eval_every = iter(scores), patience, max_steps, eval_every
        self.steps = self.evaluations = self.last_evaluated = 0

    def advance(self, position: int) -> tuple[dict[str, Any], int]:
        """A step."""
        self.steps += 1
        return {}, position + 1

    def evaluate(self) -> tuple[dict[str, Any], float]:
        """The next score."""
        self.evaluations += 1
        self.last_evaluated = self.steps
        return {}, next(self.scores)

    def improved(self, score: float) -> None:
        """Nothing is kept."""


def loop(scores: Sequence[float], *, patience: int | None, max_steps: int, eval_every: int) -> Looped:
    """The trainer's own loop over such a course."""
    course = Course(scores, patience, max_steps, eval_every)
    with tempfile.TemporaryDirectory() as folder:
        metrics = MetricsFile(Path(folder) / "metrics.jsonl")
        run_loop(
            course, LoopState(course.name), metrics=metrics, report=quiet(), save=lambda: None, save_every=max_steps + 1
        )
        metrics.close()
    return Looped(course.steps, course.evaluations, course.last_evaluated)
