"""The loop: steps, evaluations, early stopping, checkpoints, and ends that were asked for."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from wmtp import loop
from wmtp.errors import NonFiniteError
from wmtp.loop import LoopState, StoppedError, checkpoint_name, newest, stop_requests
from wmtp.metrics import MetricsFile
from wmtp.progress import quiet


@dataclass
class FakeWork:
    """A stage whose evaluations are given and whose steps only count."""

    scores: list[float]
    total_steps: int = 6
    eval_every: int = 1
    patience: int | None = None
    name: str = "stage2"
    signal_at: dict[int, int] = field(default_factory=dict)
    nan_at: int | None = None
    best: list[float] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def advance(self, position: int) -> tuple[dict[str, Any], int]:
        self.positions.append(position)
        if len(self.positions) == self.nan_at:
            raise NonFiniteError("the loss is nan")
        for _ in range(self.signal_at.get(len(self.positions), 0)):
            signal.raise_signal(signal.SIGTERM)
        return {"loss": 1.0}, position + 2

    def evaluate(self) -> tuple[dict[str, Any], float]:
        score = self.scores.pop(0)
        return {"heldout": score}, score

    def improved(self, score: float) -> None:
        self.best.append(score)


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[MetricsFile]:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    yield file
    file.close()


def run(work: FakeWork, metrics: MetricsFile, state: LoopState | None = None, *, save_every: int = 100) -> list[int]:
    """The steps at which the loop saved."""
    saved: list[int] = []
    state = LoopState("stage2") if state is None else state
    loop.run(work, state, metrics=metrics, report=quiet(), save=lambda: saved.append(state.step), save_every=save_every)
    return saved


def test_loop_evaluates_before_the_first_step_and_at_the_end(metrics: MetricsFile) -> None:
    """A line a step, one an evaluation, in their order; each evaluation once."""
    work = FakeWork([5.0, 4.0, 3.0], total_steps=5, eval_every=3)
    run(work, metrics)
    lines = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [(line["step"], "heldout" in line) for line in lines] == [
        (0, True), (1, False), (2, False), (3, False), (3, True), (4, False), (5, False), (5, True),
    ]  # fmt: skip
    assert work.scores == []


def test_loop_saves_at_its_interval_and_once_at_the_end(metrics: MetricsFile) -> None:
    """The end is not saved twice where it falls on the interval."""
    assert run(FakeWork([1.0] * 9, total_steps=6), metrics, save_every=2) == [2, 4, 6]


@pytest.mark.parametrize(
    ("patience", "scores", "steps"),
    [
        (2, [5, 4, 4, 4, 1, 1, 1], 3),  # equal is not better
        (2, [5, 6, 4, 5, 3, 4, 5], 6),  # a better one starts the count anew
        (1, [5, 6, 1, 1, 1, 1, 1], 1),
        (None, [5, 6, 7, 8, 9, 9, 9], 6),
    ],
)
def test_loop_stops_after_as_many_worse_evaluations_as_it_has_patience(
    patience: int | None, scores: list[float], steps: int, metrics: MetricsFile
) -> None:
    """Evaluations without a better one are counted in a row; the run neither overruns nor stops short."""
    work, state = FakeWork([float(s) for s in scores], patience=patience), LoopState("stage2")
    saved = run(work, metrics, state)
    assert (state.step, state.done, saved) == (steps, True, [steps])
    assert work.best == [s for i, s in enumerate(scores[: steps + 1]) if s < min(scores[:i], default=99)]


def test_loop_takes_any_number_for_better_than_nan(metrics: MetricsFile) -> None:
    """A first evaluation without a number does not stand in the way for ever."""
    state = LoopState("stage2")
    work = FakeWork([float("nan"), 3.0, float("nan"), 4.0], total_steps=3)
    run(work, metrics, state)
    assert (state.best, state.worse) == (3.0, 2)


def test_loop_goes_on_where_its_state_says(metrics: MetricsFile) -> None:
    """Neither steps nor evaluations are made twice, and the position is handed on."""
    work = FakeWork([2.0], total_steps=4, eval_every=2)
    state = LoopState("stage2", step=2, position=10, best=3.0, last=3.0)
    run(work, metrics, state)
    assert (work.positions, state.position, state.best) == ([10, 12], 14, 2.0)


def test_loop_saves_and_stops_when_it_is_asked_to(metrics: MetricsFile) -> None:
    """The step in progress is finished, the run saved, and the old handler is back."""
    before = signal.getsignal(signal.SIGTERM)
    work, state, saved = FakeWork([1.0] * 9, signal_at={3: 1}), LoopState("stage2"), []
    with pytest.raises(StoppedError, match=r"^stage2 step 3$"):
        loop.run(work, state, metrics=metrics, report=quiet(), save=lambda: saved.append(state.step), save_every=100)
    assert (saved, state.done, signal.getsignal(signal.SIGTERM)) == ([3], False, before)


def test_loop_stops_at_once_when_it_is_asked_twice(metrics: MetricsFile) -> None:
    """The second signal does not wait for the step."""
    work = FakeWork([1.0] * 9, signal_at={2: 2})
    with pytest.raises(KeyboardInterrupt):
        run(work, metrics)
    assert len(work.positions) == 2


def test_loop_names_stage_and_step_when_something_is_not_finite(metrics: MetricsFile) -> None:
    """The refused step is not counted, logged or saved."""
    work, state = FakeWork([1.0] * 9, nan_at=3), LoopState("stage2")
    with pytest.raises(NonFiniteError, match=r"^stage2 step 3: the loss is nan$"):
        run(work, metrics, state)
    assert (state.step, len(metrics.path.read_text().splitlines())) == (2, 1 + 2 * 2)


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    """A loop in a thread runs; signals are somebody else's."""
    asked = []

    def work() -> None:
        with stop_requests() as requested:
            asked.append(requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]


def test_newest_checkpoint_is_the_one_of_the_latest_stage_and_step(tmp_path: Path) -> None:
    """Stages sort in the order in which they run, whatever their names; other files do not count."""
    names = [
        checkpoint_name(stage, step) for stage, step in (("warmup", 30), ("stage1", 20), ("stage2", 1), ("stage2", 10))
    ]
    for name in [*names, "other-00000001.ckpt", ".stage2-00000099.ckpt.tmp", "stage2.txt"]:
        (tmp_path / name).touch()
    found = [path.name for path in newest(tmp_path, ("warmup", "stage1", "stage2"))]
    assert found == names[::-1]
