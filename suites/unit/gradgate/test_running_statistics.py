"""Rewards that are normalised by running statistics are a design; what else depends on batch and history is not."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.check_runs import errors, run_check
from fixtures.normalised_rewards import NormalisedLoop, NormalisedRun, normalised
from gradgate.checks.running_statistics import HELD, running_statistics
from gradgate.subjects.contract import Stage, Subject

RUNNING = ("numbers", "called", "assigned", "written", "plain", "table")


@pytest.mark.parametrize("kind", RUNNING)
@pytest.mark.parametrize("code", ["GG205", "GG406", "GG407", "GG410", "GG416", "GG904"])
def test_running_statistics_of_rewards_pass(code: str, kind: Any) -> None:
    """With them held still nothing is left, and the report says what was held."""
    subject = normalised(kind)
    outcome = run_check(code, subject, subject.stages[0])
    assert (errors(outcome), outcome.inconclusive) == ([], "")
    name = "trainer.statistics.statistics.mean" if kind == "table" else "trainer.statistics.mean"
    assert code not in ("GG407", "GG410", "GG904") or name in outcome.measured[HELD]


@pytest.mark.parametrize(("declared", "red"), [((), True), (("statistics",), False), (("norm",), True)])
def test_statistics_of_bootstrapped_returns_are_held_where_they_are_declared(
    declared: tuple[str, ...], red: bool
) -> None:
    """Other parameters move them otherwise, as they do a norm of the loss: nothing but the adapter can tell."""
    kind = type("Declared", (NormalisedRun,), {"statistics": declared})
    stage = Stage("values", partial(kind, kind="bootstrapped"), objective="value")
    assert bool(errors(run_check("GG904", Subject("normalised", [stage]), stage))) == red


@pytest.mark.parametrize("run", [NormalisedRun, NormalisedLoop])
def test_statistics_of_what_the_critic_says_are_no_part_of_its_gradient(run: Any) -> None:
    """Returns that are bootstrapped move a mean that other parameters would move otherwise: no difference sees that."""
    stage = Stage("values", partial(run, kind="bootstrapped"), objective="value")
    outcome = run_check("GG205", Subject("normalised", [stage]), stage)
    assert (errors(outcome), outcome.inconclusive) == ([], "")


@pytest.mark.parametrize("kind", ["numbers", "called", "table"])
def test_running_statistics_of_a_loop_pass(kind: Any) -> None:
    """A turn for its losses puts back what it moved: to look at them nothing is put back until the end."""
    stage = Stage("values", partial(NormalisedLoop, kind=kind), objective="value")
    outcome = run_check("GG407", Subject("normalised", [stage]), stage)
    assert errors(outcome) == [] and "trainer.statistics." in outcome.measured[HELD]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("GG406", "padded"),
        ("GG407", "batch"),
        ("GG410", "summed"),
        ("GG904", "loss norm"),
        ("GG904", "decay"),
    ],
)
def test_what_is_wrong_beside_running_statistics_is_found(code: str, kind: Any) -> None:
    """Statistics of the batch or of padding, sums, a running norm of the loss, a factor that decays."""
    subject = normalised(kind)
    assert errors(run_check(code, subject, subject.stages[0]))


@pytest.mark.parametrize("kind", [*RUNNING[:-1], "loss norm", "decay"])
def test_statistics_are_found_by_what_moves_them(kind: Any) -> None:
    """By the data, at whatever parameters; looking leaves them, parameters and classes as they were."""
    run = NormalisedRun(0, kind, dtype=torch.float64)
    before = [parameter.clone() for parameter in run.modules["critic"].parameters()]
    batches = [batch for _, batch in zip(range(2), run.batches(), strict=False)]
    statistics = running_statistics(run, batches, 0)
    assert statistics is not None
    holder = run.trainer.statistics
    names = {"trainer.statistics.mean"}
    if kind not in ("assigned", "written", "plain"):
        names |= {"trainer.statistics.square", "trainer.statistics.count"}
    assert set(statistics.names.split(", ")) == names
    kept, own = holder.mean, type(holder)
    with statistics.still():
        held = holder.mean.clone() if isinstance(holder.mean, Tensor) else holder.mean
        run.losses(batches[1])
        assert holder.mean == held
    assert type(holder) is own and holder.mean is kept
    run.losses(batches[1])
    assert holder.mean != held
    assert all(map(torch.equal, run.modules["critic"].parameters(), before))


def test_a_run_without_statistics_has_none() -> None:
    """Nor has one whose only other batch is the same."""
    run = NormalisedRun(0, "numbers")
    batch = next(run.batches())
    assert running_statistics(run, [batch, batch], 0) is None
    assert running_statistics(run, [batch], 0) is None
    run.trainer.statistics.update = lambda _: None  # type: ignore[method-assign]
    assert running_statistics(run, [batch, next(NormalisedRun(1, "numbers").batches())], 0) is None
