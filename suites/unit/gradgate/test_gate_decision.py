"""The sequential rule: verdicts at the looks, false alarms and power in simulation, processes together."""

from __future__ import annotations

import math
import random

import pytest

from gradgate.gates.decision import LOOKS, Decision, look, settle
from gradgate.gates.stats import wilson

T = 0.03


def around(effect: float, scatter: float, n: int) -> list[float]:
    """Ratios spread evenly about an effect."""
    return [math.exp(effect + scatter * (2 * i / (n - 1) - 1)) for i in range(n)]


@pytest.mark.parametrize(
    ("effect", "scatter", "n", "verdict"),
    [
        (0.0, 0.005, 6, "pass"),
        (0.03, 0.005, 6, "fail"),
        (-0.03, 0.005, 6, "improved"),
        (0.015, 0.01, 6, None),
        (0.0, 0.03, 6, None),
        (0.014, 0.03, 16, "pass"),
        (0.017, 0.03, 16, "fail"),
        (-0.017, 0.03, 16, "improved"),
        (0.03, 0.2, 16, "noisy"),
    ],
)
def test_look_decides_by_the_interval_early_and_by_the_estimate_at_the_cap(
    effect: float, scatter: float, n: int, verdict: str | None
):
    """Early where a bound is clear of its limit; at the cap by T/2, unless the interval is wider than 2T."""
    assert look(around(effect, scatter, n), T).verdict == verdict


def test_look_decides_when_no_more_blocks_will_come():
    """A budget that ends early makes the present look the last."""
    undecided = around(0.0, 0.02, 6)
    assert (look(undecided, T).verdict, look(undecided, T, last=True).verdict) == (None, "pass")


def decide(effect: float, noise: float, rng: random.Random) -> Decision:
    """A whole sequence of looks."""
    ratios = [math.exp(effect + rng.gauss(0, noise)) for _ in range(LOOKS[-1])]
    return next(found for n in LOOKS if (found := look(ratios[:n], T)).verdict)


def test_rule_is_calibrated_under_a_true_null():
    """At the scatter that blocks are sized for, one process calls identical code slower in at most 2 % of cases."""
    rng, trials = random.Random(1), 1000
    alarms = sum(decide(0.0, 0.025, rng).verdict == "fail" for _ in range(trials))
    assert wilson(alarms, trials).high <= 0.03
    assert wilson(alarms, trials).estimate <= 0.02


@pytest.mark.parametrize(("effect", "power"), [(0.03, 0.95), (0.05, 0.99)])
def test_rule_finds_a_slowdown(effect: float, power: float):
    """At that scatter 3 % is found in at least 95 % of cases, 5 % in at least 99 %."""
    rng, trials = random.Random(2), 1000
    found = sum(decide(math.log(1 + effect), 0.025, rng).verdict == "fail" for _ in range(trials))
    assert found / trials >= power


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        (["pass"], "pass"),
        (["improved"], "improved"),
        (["fail"], None),
        (["noisy"], None),
        (["fail", "fail"], "fail"),
        (["fail", "pass"], None),
        (["fail", "pass", "pass"], "pass"),
        (["fail", "pass", "fail"], "fail"),
        (["fail", "noisy", "fail"], "fail"),
        (["fail", "pass", "noisy"], "noisy"),
        (["fail", "noisy", "noisy"], "noisy"),
        (["noisy", "pass"], "pass"),
        (["noisy", "noisy"], "noisy"),
        (["noisy", "fail"], None),
        (["noisy", "fail", "fail"], "fail"),
        (["noisy", "fail", "pass"], "noisy"),
        (["pass", "fail"], "pass"),
        (["pass", "fail", "fail"], "pass"),
        (["improved", "fail"], "improved"),
    ],
)
def test_a_fail_has_to_repeat_in_a_fresh_process(votes: list[str], verdict: str | None):
    """One process never fails the code; a pass that comes first stands; what does not repeat is noisy."""
    assert settle(votes) == verdict
