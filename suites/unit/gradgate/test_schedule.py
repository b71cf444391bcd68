"""Schedule: the literal formula agrees with torch's own schedulers, and refuses what it cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gradgate.core.errors import SubjectError
from gradgate.subjects.schedule import Schedule


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_schedule_agrees_with_torch(shape: Any) -> None:
    """Both conventions of the end; from 0 or from the first step up."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    total, warmup = 20, 5
    for from_zero, ends_at_last in ((False, True), (True, False)):
        schedule = Schedule(0.3, total, warmup, shape, 0.1, from_zero, ends_at_last)
        optimizer = torch.optim.SGD([parameter], lr=0.3)
        first = 1e-12 if from_zero else 1 / warmup
        up = torch.optim.lr_scheduler.LinearLR(optimizer, first, 1.0, warmup - (not from_zero))
        length = total - warmup - ends_at_last
        down: Any = (
            torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, length)
            if shape == "linear"
            else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length, 0.03)
        )
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [up, down], [warmup])
        for step in range(total):
            assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-9)
            optimizer.step()
            both.step()


def test_schedule_stays_at_its_end_and_is_constant_by_default() -> None:
    """It never rises again."""
    assert [Schedule(2.0, 4, 0, "linear", 0.5)(step) for step in (3, 4, 100)] == [1.0, 1.0, 1.0]
    assert [Schedule(2.0)(step) for step in (0, 10**6)] == [2.0, 2.0]
    assert math.isclose(Schedule(2.0, 1, 0, "cosine")(0), 2.0)


def test_schedule_peaks_at_the_last_step_of_its_warm_up_alone_where_that_is_declared() -> None:
    """And ends where it would without; without a warm-up it is the same."""
    once = Schedule(1.0, 9, 3, "linear", peaks_once=True)
    assert [once(step) for step in range(1, 5)] == pytest.approx([2 / 3, 1.0, 5 / 6, 4 / 6]) and once(8) == 0.0
    assert [Schedule(1.0, 9, 3, "linear")(step) for step in (2, 3)] == [1.0, 1.0]
    assert all(Schedule(1.0, 9, 0, "cosine", peaks_once=True)(t) == Schedule(1.0, 9, 0, "cosine")(t) for t in range(9))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shape": "cosin"}, "no shape 'cosin'.*did you mean 'cosine'"),
        ({"shape": "linear"}, "needs `total_steps`, got 0"),
    ],
)
def test_schedule_refuses_what_it_cannot_be(given: Any, message: str) -> None:
    """With the nearest shape."""
    with pytest.raises(SubjectError, match=message):
        Schedule(1.0, **given)


@pytest.mark.parametrize("total", [2, 3, 50, 199, 200])
def test_cosine_is_exact_enough_up_to_the_step_before_its_end(total: int) -> None:
    """Against the form that does not cancel, cos(pi p / 2)^2: within the bound that GG607's page derives."""
    schedule = Schedule(1.0, total, shape="cosine")
    exact = [math.cos(math.pi * step / (total - 1) / 2) ** 2 for step in range(total - 1)]
    assert [schedule(step) for step in range(total - 1)] == pytest.approx(exact, rel=3e-11, abs=0)
