"""The sequential rule: verdicts at the looks, false alarms and power in simulation, processes together."""

from __future__ import annotations

import math
import random

import pytest

from gradgate.gates.decision import LOOKS, Decision, Said, look, together
from gradgate.gates.stats import wilson

T = 0.03


def around(effect: float, scatter: float, n: int) -> list[float]:
    """Ratios spread evenly about an effect."""
    return [math.exp(effect + scatter * (2 * i / (n - 1) - 1)) for i in range(n)]


@pytest.mark.parametrize(
    ("effect", "scatter", "n", "verdict"),
    [
        (0.0, 0.005, 8, "pass"),
        (0.03, 0.005, 8, "fail"),
        (-0.03, 0.005, 8, "improved"),
        (0.0155, 0.02, 8, None),
        (0.0, 0.05, 8, None),
        (0.0145, 0.12, 100, "pass"),
        (0.0165, 0.12, 100, "fail"),
        (-0.0165, 0.12, 100, "improved"),
        (0.03, 0.4, 100, "noisy"),
    ],
)
def test_look_decides_by_the_interval_early_and_by_the_estimate_at_the_cap(
    effect: float, scatter: float, n: int, verdict: str | None
):
    """Early where a bound is clear of its limit; at the cap by T/2, unless the interval is wider than 2T."""
    assert look(around(effect, scatter, n), T).verdict == verdict


def test_look_decides_when_no_more_blocks_will_come():
    """A budget that ends early makes the present look the last."""
    undecided = around(0.0, 0.025, 8)
    assert (look(undecided, T).verdict, look(undecided, T, last=True).verdict) == (None, "pass")


def decide(effect: float, noise: float, rng: random.Random) -> Decision:
    """A whole sequence of looks."""
    ratios = [math.exp(effect + rng.gauss(0, noise)) for _ in range(LOOKS[-1])]
    return next(found for n in LOOKS if (found := look(ratios[:n], T)).verdict)


def test_rule_is_calibrated_under_a_true_null():
    """At the scatter of a loaded machine's blocks one process calls identical code slower in at most 3 % of cases."""
    rng, trials = random.Random(1), 400
    alarms = sum(decide(0.0, 0.045, rng).verdict == "fail" for _ in range(trials))
    assert wilson(alarms, trials).estimate <= 0.03


@pytest.mark.parametrize(("effect", "power"), [(0.03, 0.95), (0.05, 0.99)])
def test_rule_finds_a_slowdown(effect: float, power: float):
    """At that scatter 3 % is found in at least 95 % of cases, 5 % in at least 99 %."""
    rng, trials = random.Random(2), 400
    found = sum(decide(math.log(1 + effect), 0.045, rng).verdict == "fail" for _ in range(trials))
    assert found / trials >= power


def said(effect: float, scatter: float = 0.005, n: int = 8, same: float = 0.0) -> Said:
    """A process whose blocks spread evenly about an effect."""
    ratios = tuple(around(effect, scatter, n))
    return Said(look(ratios, T, last=True), ratios, tuple(around(same, scatter, n)))


@pytest.mark.parametrize(
    ("processes", "verdict"),
    [
        ([said(0.0)], "pass"),
        ([said(-0.03)], "improved"),
        ([said(0.03)], None),
        ([said(0.0, same=0.02)], None),
        ([said(0.0, 0.3, 16)], None),
        ([said(0.03), said(0.03)], "fail"),
        ([said(0.03), said(0.0)], None),
        ([said(0.025), said(-0.002)], "pass"),
        ([said(0.08), said(0.0), said(0.0)], "noisy"),
        ([said(0.03), said(0.0), said(0.03)], "fail"),
        ([said(0.0, 0.04, 16), said(0.0, 0.04, 16)], "pass"),
        ([said(0.0), said(0.09)], "pass"),
        ([said(0.0, 0.3, 16)] * 3, "noisy"),
        ([said(0.0, same=0.03)] * 3, "noisy"),
    ],
)
def test_a_fail_has_to_repeat_in_a_fresh_process(processes: list[Said], verdict: str | None):
    """One process never fails the code, a first pass stands, and what is open is added to until the last process."""
    assert together(processes, T).verdict == verdict


@pytest.mark.parametrize(("effect", "least", "most"), [(0.0, 0.0, 0.01), (0.03, 0.95, 1.0), (0.05, 0.99, 1.0)])
def test_processes_together_are_calibrated_where_layout_moves_each(effect: float, least: float, most: float):
    """Blocks that scatter by 4.5 %, and a layout that shifts every process by 0.4 %: alarms, and slowdowns found."""
    rng, trials, failed = random.Random(4), 300, 0
    for _ in range(trials):
        processes: list[Said] = []
        found = None
        while found is None or found.verdict is None:
            luck = rng.gauss(0, 0.004)
            ratios = [math.exp(math.log(1 + effect) + luck + rng.gauss(0, 0.045)) for _ in range(LOOKS[-1])]
            blocks = next(n for n in LOOKS if look(ratios[:n], T).verdict)
            same = tuple(math.exp(rng.gauss(0, 0.045)) for _ in range(blocks))
            processes.append(Said(look(ratios[:blocks], T), tuple(ratios[:blocks]), same))
            found = together(processes, T)
        failed += found.verdict == "fail"
    assert least <= failed / trials <= most
