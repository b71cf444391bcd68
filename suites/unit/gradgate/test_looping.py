"""A trainer's own loop on given scores: what `Stage.loop` returns in two lines of an adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.check_runs import errors, run_check
from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Looped, Stage, Subject
from gradgate.subjects.looping import looped


class Stopping:
    """A loop with early stopping and a limit.

    Args:
        inner: leave the epoch alone where it stops, and begin the next one.
    """

    def __init__(self, patience: int | None, max_steps: int, eval_every: int, inner: bool = False) -> None:
        self.patience, self.max_steps, self.eval_every, self.inner = patience, max_steps, eval_every, inner
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)

    def evaluate(self) -> dict[str, float]:
        return {"eval_loss": float(self.model.weight.detach())}

    def fit(self, loader: list[int], epochs: int = 9) -> None:
        step, best, worse = 0, math.inf, 0
        for _ in range(epochs):
            for _ in loader:
                if step == self.max_steps:
                    return
                self.optimizer.step()
                step += 1
                if step % self.eval_every == 0:
                    score = self.evaluate()["eval_loss"]
                    best, worse = (score, 0) if score < best else (best, worse + 1)
                    if self.patience is not None and worse >= self.patience:
                        break
            if self.patience is not None and worse >= self.patience and not self.inner:
                return


def stage(inner: bool) -> Stage:
    def loop(scores: Any, *, patience: int | None, max_steps: int, eval_every: int) -> Looped:
        trainer = Stopping(patience, max_steps, eval_every, inner)
        return looped(
            lambda: trainer.fit([1] * 5), trainer, "evaluate", scores, told=lambda score: {"eval_loss": score}
        )

    return Stage("train", lambda seed, **_: None, loop=loop)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(("inner", "red"), [(False, False), (True, True)])
def test_looped_lets_gg608_judge_a_loop_as_it_is(inner: bool, red: bool) -> None:
    """A break out of the epoch alone is found; the evaluation is the trainer's own again behind it."""
    assert bool(errors(run_check("GG608", Subject("stopping", [stage(inner)]), stage(inner)))) == red
    assert Stopping(None, 1, 1).evaluate()["eval_loss"] != 7.0


class Tracking(Stopping):
    """It hands the score on to a method, behind which it asks something else."""

    best, worse = math.inf, 0
    ends = False

    def fit(self, loader: list[int], epochs: int = 9) -> None:
        step = 0
        for _ in range(epochs):
            for _ in loader:
                if self.ends or step == self.max_steps:
                    return
                self.optimizer.step()
                step += 1
                self.after(step)

    def after(self, step: int) -> None:
        if step % self.eval_every == 0:
            self.track(self.evaluate())
        if step % 100 == 0 and self.patience != 0:
            self.best = self.best + 0.0

    def track(self, metrics: dict[str, float]) -> None:
        if metrics["eval_loss"] > self.best or self.best == math.inf:
            self.best, self.worse = metrics["eval_loss"], 0
        else:
            self.worse += 1
            if self.patience and self.worse >= self.patience:
                self.ends = True


def test_gg608_names_the_line_of_the_function_that_a_score_is_handed_on_to() -> None:
    """Not the next question of the one that asked for it."""

    def loop(scores: Any, *, patience: int | None, max_steps: int, eval_every: int) -> Looped:
        trainer = Tracking(patience, max_steps, eval_every, inner=False)
        return looped(
            lambda: trainer.fit([1] * 5), trainer, "evaluate", scores, told=lambda score: {"eval_loss": score}
        )

    tracking = Stage("train", lambda seed, **_: None, loop=loop)  # type: ignore[arg-type,return-value]
    findings = run_check("GG608", Subject("tracking", [tracking], source=Path(__file__).parent), tracking).findings
    assert {each.culprit.source for each in findings if each.culprit} == {
        'if metrics["eval_loss"] > self.best or self.best == math.inf:'
    }


def test_looped_counts_steps_and_evaluations() -> None:
    """Up to the limit, and where the last evaluation was."""
    trainer = Stopping(None, 5, 2)
    assert looped(
        lambda: trainer.fit([1] * 3), trainer, "evaluate", [1.0] * 9, told=lambda s: {"eval_loss": s}
    ) == Looped(5, 2, 4)


def test_looped_refuses_what_is_not_there_and_ends_what_does_not_end() -> None:
    """A name that the trainer does not have; more evaluations than scores."""
    trainer = Stopping(None, 10, 1)
    with pytest.raises(SubjectError, match="Stopping has no 'validate'"):
        looped(lambda: None, trainer, "validate", [])
    with pytest.raises(SubjectError, match="evaluated more than 2 times"):
        looped(lambda: trainer.fit([1] * 5), trainer, "evaluate", [1.0, 1.0], told=lambda s: {"eval_loss": s})
