"""The loop around a stage: steps, evaluation, early stopping, checkpoints, and an end that can be asked for."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from wmtp.errors import NonFiniteError
from wmtp.metrics import MetricsFile, NoMetrics
from wmtp.processes import ALONE, Processes
from wmtp.progress import Report


class StoppedError(Exception):
    """Ctrl-C or SIGTERM: the step in progress was finished and the run saved."""


class Work(Protocol):
    """A stage as the loop sees it."""

    name: str
    total_steps: int
    eval_every: int
    patience: int | None

    def advance(self, position: int) -> tuple[dict[str, Any], int]:
        """One step on the data at `position`: its metrics, and the position behind it."""

    def evaluate(self) -> tuple[dict[str, Any], float]:
        """Metrics on the held-out rows, and the one number that is to become smaller."""

    def improved(self, score: float) -> None:
        """The last evaluation was the best so far."""


@dataclass
class LoopState:
    """Where a stage is. All of it is in every checkpoint.

    Attributes:
        stage: the stage's name.
        step: steps made.
        position: packs taken from the stage's order.
        best: the best evaluation so far; None before the first.
        last: the last evaluation.
        worse: evaluations since the best.
        done: the stage has ended: by its steps, or early.
    """

    stage: str
    step: int = 0
    position: int = 0
    best: float | None = None
    last: float | None = None
    worse: int = 0
    done: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run(
    work: Work,
    state: LoopState,
    *,
    metrics: MetricsFile | NoMetrics,
    report: Report,
    save: Callable[[], None],
    save_every: int,
    on_step: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> None:
    """Run a stage from where its state says to its end.

    Args:
        work: the stage.
        state: updated in place.
        metrics: gets a line a step and a line an evaluation.
        report: what a person sees.
        save: writes a checkpoint of everything, this state included.
        save_every: steps between checkpoints; one more is written at the end.
        on_step: called after each step.
        processes: those that end together.

    Raises:
        StoppedError: Ctrl-C or SIGTERM; a checkpoint has been written.
        NonFiniteError: names stage and step; nothing has been updated by the step.
    """
    saved: int | None = None
    with (
        stop_requests(once=processes.world > 1) as requested,
        report.bar(work.name, max(1, work.total_steps), state.step) as bar,
    ):
        if state.step == 0:
            _evaluate(work, state, metrics)
        while not state.done and state.step < work.total_steps:
            try:
                measured, state.position = work.advance(state.position)
            except NonFiniteError as error:
                raise NonFiniteError(f"{work.name} step {state.step + 1}: {error}") from None
            state.step += 1
            metrics.log(work.name, state.step, measured)
            bar.advance(measured)
            if state.step % work.eval_every == 0 or state.step == work.total_steps:
                _evaluate(work, state, metrics)
            if state.step % save_every == 0 and not state.done and state.step < work.total_steps:
                save()
                saved = state.step
            on_step()
            if processes.any(requested()):
                if saved != state.step:
                    save()
                raise StoppedError(f"{work.name} step {state.step}")
    state.done = True
    save()


def _evaluate(work: Work, state: LoopState, metrics: MetricsFile | NoMetrics) -> None:
    """Evaluate; stop early after too many evaluations without a better one."""
    measured, score = work.evaluate()
    metrics.log(work.name, state.step, measured)
    state.last = score
    if state.best is None or math.isnan(state.best) or score < state.best:
        state.best, state.worse = score, 0
        work.improved(score)
    else:
        state.worse += 1
    if work.patience is not None and state.worse >= work.patience:
        state.done = True


@contextmanager
def stop_requests(*, once: bool = False) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a question that the loop asks after each step; a second acts at once.

    Args:
        once: further ones change nothing: a process of several gets the same one from its group and from torchrun,
            which kills what has not ended 30 seconds later.
    """
    asked: list[int] = []

    def handler(number: int, _frame: FrameType | None) -> None:
        if asked and not once:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def checkpoint_name(stage: str, step: int) -> str:
    """File name of a checkpoint; names sort in the order of the run."""
    return f"{stage}-{step:08d}.ckpt"


def newest(folder: Path, stages: tuple[str, ...]) -> list[Path]:
    """The checkpoints of a run, newest first."""
    files = [path for path in folder.glob("*-*.ckpt") if path.name.rsplit("-", 1)[0] in stages]
    return sorted(files, key=lambda path: (stages.index(path.name.rsplit("-", 1)[0]), path.name), reverse=True)
