"""The learning rate on trial: what a tenth of it gains, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.checks.rate_trial import _at, tenth_gain
from gradgate.subjects.contract import Run, Stage


class Valley(Run):
    """A quadratic of curvature 1: plain descent halves at rate 0.5, and is thrown further out by each step beyond 2."""

    def __init__(self, rate: float) -> None:
        self.at = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.at.weight)
        self.modules: Mapping[str, nn.Module] = {"at": self.at}
        self.optimizers = [torch.optim.SGD(self.at.parameters(), lr=rate)]

    def batches(self) -> Iterator[int]:
        while True:
            yield 0

    def losses(self, batch: int) -> Mapping[str, Tensor]:
        return {"total": self.at.weight.square().sum() / 2 + 1}

    def step(self, batch: int) -> Mapping[str, float]:
        self.optimizers[0].zero_grad()
        self.losses(batch)["total"].backward()
        self.optimizers[0].step()
        return {}


class Silent(Valley):
    """It does not say what it minimises."""

    losses = Run.losses  # type: ignore[assignment]


def gain(rate: float, kind: type[Valley] = Valley) -> float | None:
    def start(seed: int, **_: Any) -> Valley:
        return kind(rate)

    return tenth_gain(Stage("only", start, objective="tokens"), 0, "cpu")


def test_tenth_of_a_rate_that_overshoots_ends_lower() -> None:
    """At 2.01 each step goes further out, at 0.201 it is home after 64."""
    found = gain(2.01)

    assert found is not None
    assert found > 0.05


@pytest.mark.parametrize("rate", [0.5, 0.01])
def test_tenth_of_a_sound_rate_ends_no_lower(rate: float) -> None:
    """Descent is slower, or arrives as well."""
    found = gain(rate)

    assert found is not None
    assert found <= 0


def test_rate_that_ends_at_no_number_is_infinitely_worse() -> None:
    """The full rate has overflowed."""
    assert gain(1e3) == math.inf


def test_trial_wants_losses() -> None:
    """Without them there is nothing to compare."""
    assert gain(0.5, Silent) is None


def test_rate_is_put_back_behind_every_step() -> None:
    """What reads the rate sees the full one, and no hook stays."""
    run = Valley(0.5)

    with _at(0.1, run):
        run.step(0)
    lowered = float(run.at.weight.detach())
    run.step(0)

    assert run.optimizers[0].param_groups[0]["lr"] == 0.5
    assert (lowered, float(run.at.weight.detach())) == (pytest.approx(0.95), pytest.approx(0.475))
