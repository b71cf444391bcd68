"""The sequential rule: verdicts at the looks, false alarms and power in simulation, processes together."""

from __future__ import annotations

import math
import random

import pytest

from gradgate.gates.decision import ALPHA, LOOKS, PASSED, Decision, Said, at_rest, look, together
from gradgate.gates.stats import Interval, paired_ratio, wilson

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


@pytest.mark.parametrize(
    ("effect", "least", "most"),
    [(0.0, 0.0, 0.01), pytest.param(0.03, 0.95, 1.0, marks=pytest.mark.nightly), (0.05, 0.99, 1.0)],
)
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


def bounds(ratios: list[float]) -> tuple[float, float, float]:
    """Estimate, lower and upper bound less 1."""
    found = paired_ratio(ratios, ALPHA)
    return found.estimate - 1, found.low - 1, found.high - 1


def test_a_limit_that_is_just_met_is_no_fail_and_no_improvement():
    """The estimate has to exceed T/2 and the bound T/4; twice and four times a number are exact."""
    slower, faster = around(0.03, 0.005, 8), around(-0.03, 0.005, 8)
    estimate, low, high = bounds(slower)
    assert high < 2 * PASSED * estimate
    assert (look(slower, 2 * estimate).verdict, look(slower, 2 * estimate * 0.999).verdict) == ("pass", "fail")
    estimate, _, _ = bounds(faster)
    assert (look(faster, -2 * estimate).verdict, look(faster, -2 * estimate * 0.999).verdict) == ("pass", "improved")
    wide = around(0.03, 0.025, 8)
    estimate, low, _ = bounds(wide)
    assert estimate > 2 * low > 0
    assert (look(wide, 4 * low).verdict, look(wide, 4 * low * 0.999).verdict) == (None, "fail")
    wide = around(-0.03, 0.025, 8)
    estimate, _, high = bounds(wide)
    assert estimate < 2 * high < 0
    assert (look(wide, -4 * high).verdict, look(wide, -4 * high * 0.999).verdict) == (None, "improved")


def test_an_upper_bound_has_to_stay_below_its_share_of_the_tolerance():
    """0.6 of T, a hair more is looked at again."""
    ratios = around(0.0, 0.02, 8)
    _, _, high = bounds(ratios)
    limit = high / PASSED
    assert (look(ratios, limit * 0.999).verdict, look(ratios, limit * 1.001).verdict) == (None, "pass")


def test_the_cap_decides_by_width_and_estimate():
    """Noisy only beyond a width of 2T; at T/2 itself nothing is slower."""
    ratios = around(0.02, 0.2, LOOKS[-1])
    estimate, low, high = bounds(ratios)
    assert estimate > (high - low) / 4 > 0
    assert low < (high - low) / 8
    assert look(ratios, (high - low) / 2).verdict == "fail"
    assert look(ratios, (high - low) / 2 * 0.999).verdict == "noisy"
    ratios = around(0.02, 0.1, LOOKS[-1])
    estimate, low, high = bounds(ratios)
    assert high - low < 4 * estimate
    assert (look(ratios, 2 * estimate).verdict, look(ratios, 2 * estimate * 0.999).verdict) == ("pass", "fail")
    assert look(ratios, T).blocks == LOOKS[-1]


@pytest.mark.parametrize("blocks", LOOKS)
def test_the_estimate_decides_at_the_last_look_alone(blocks: int):
    """A wide interval is looked at again until no more blocks will come."""
    assert look(around(0.0, 0.2, blocks), T).verdict == (None if blocks < LOOKS[-1] else "pass")


def test_an_aa_pair_rests_up_to_its_limit():
    """T/2 either way is rest, a hair more is not."""
    for ratio in (1.02, 0.98):
        limit = 2 * abs(bounds([ratio] * 8)[0])
        assert at_rest([ratio] * 8, limit)
        assert not at_rest([ratio] * 8, limit * 0.999)


def test_processes_count_as_slower_beyond_half_the_tolerance_alone():
    """Two of them have to be; an estimate of just T/2 is not, and the last process ends the asking."""
    ratio = 1.0 + 2**-6  # so that the estimate less 1 is half the tolerance, exactly
    one = Said(Decision("fail", Interval(1.0, ratio, 1.1), 8), tuple(around(0.05, 0.005, 8)), (1.0,) * 8)
    other = said(0.05)
    assert together([one, other], 2**-5).verdict is None
    assert together([other, one], 2**-5, most=2).verdict == "noisy"
    assert together([other, other], T, most=2).verdict == "fail"


def test_what_is_left_open_still_shows_what_was_measured():
    """The ratio and the blocks of all processes, whatever the verdict."""
    found = together([said(0.08), said(0.0)], T)
    pooled = look([*said(0.08).ratios, *said(0.0).ratios], T, last=True)
    assert (found.verdict, found.ratio, found.blocks) == (None, pooled.ratio, 16)
