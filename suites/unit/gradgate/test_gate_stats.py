"""The gate's statistics: fast code against slow literal formulas, exact coverage, calibration under a true null."""

from __future__ import annotations

import itertools
import math
import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradgate.gates.stats import (
    centre,
    critical_rank,
    nonnegative_slopes,
    paired_ratio,
    student_bound,
    student_within,
    walsh_means,
    wilson,
)

RATIOS = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=12)


@given(RATIOS)
def test_paired_ratio_is_the_median_over_all_pairs(ratios: list[float]):
    """The literal definition: every pair's geometric mean, each ratio with itself too, and their median."""
    pairs = itertools.combinations_with_replacement(range(len(ratios)), 2)
    means = [math.log(ratios[i] * ratios[j]) / 2 for i, j in pairs]
    assert paired_ratio(ratios, 0.05).estimate == pytest.approx(math.exp(median(means)))


@given(RATIOS, st.sampled_from([0.001, 0.011, 1 / 64, 0.1, 0.3]))
def test_bounds_enclose_the_estimate_and_swap_when_the_sides_do(ratios: list[float], alpha: float):
    """Base over head has the same interval, turned round."""
    found = paired_ratio(ratios, alpha)
    turned = paired_ratio([1 / ratio for ratio in ratios], alpha)
    assert found.low <= found.estimate <= found.high
    assert (turned.high, turned.estimate) == pytest.approx(
        (1 / found.low if found.low else math.inf, 1 / found.estimate)
    )


@pytest.mark.parametrize("n", range(1, 11))
@pytest.mark.parametrize("alpha", [0.005, 0.011, 1 / 64, 0.05, 0.2])
def test_critical_rank_equals_counting_all_signs(n: int, alpha: float):
    """Slow and literal: every assignment of signs is equally likely, and the sums of positive ranks are counted."""
    sums = [sum(r for r, s in enumerate(signs, 1) if s) for signs in itertools.product((0, 1), repeat=n)]
    fitting = [t for t in range(n * (n + 1) // 2 + 1) if sum(s <= t for s in sums) / 2**n <= alpha]
    assert critical_rank(n, alpha) == (max(fitting) if fitting else None)


def test_bounds_are_where_the_signed_rank_test_stops_rejecting():
    """The interval inverts the test: a hair inside the lower bound is kept, a hair outside is rejected."""
    logs, alpha = [0.01, 0.013, -0.002, 0.021, 0.008, 0.017, 0.003, 0.012, 0.025], 0.011
    low = math.log(paired_ratio([math.exp(x) for x in logs], alpha).low)
    beyond = critical_rank(len(logs), alpha)

    def negative_ranks(shift: float) -> int:
        return sum(mean < shift for mean in walsh_means(logs))

    assert negative_ranks(low + 1e-9) > beyond >= negative_ranks(low - 1e-9)


def test_interval_is_unbounded_when_so_few_ratios_bear_no_such_error():
    """Five signed ranks cannot be rarer than 1/32."""
    found = paired_ratio([1.01, 1.02, 1.03, 1.04, 1.05], 0.011)
    assert (found.low, found.high) == (0.0, math.inf)


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize(("n", "alpha"), [(6, 1 / 64), (9, 0.011), (16, 0.011)])
def test_interval_covers_as_it_promises_under_a_true_null(n: int, alpha: float, heavy: bool):
    """The lower bound exceeds the truth at most as often as alpha says, whatever the tails."""
    rng = random.Random(7)
    trials = 1500

    def draw() -> float:
        return rng.gauss(0, 0.02) * (rng.expovariate(1) if heavy else 1)

    above = sum(paired_ratio([math.exp(draw()) for _ in range(n)], alpha).low > 1 for _ in range(trials))
    assert wilson(above, trials, z=3).low <= alpha


@pytest.mark.parametrize("ratios", [[], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan]])
def test_paired_ratio_refuses_what_is_no_ratio(ratios: list[float]):
    """Zero, negative and NaN have no logarithm."""
    with pytest.raises(ValueError, match="expected ratios > 0"):
        paired_ratio(ratios, 0.05)


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_solves_the_score_equation(hits: int, trials: int):
    """Both bounds are the shares p with (share - p)^2 = z^2 p (1 - p) / n."""
    hits = min(hits, trials)
    found = wilson(hits, trials)
    for p in (found.low, found.high):
        assert (found.estimate - p) ** 2 == pytest.approx(1.96**2 * p * (1 - p) / trials, abs=1e-12)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_wilson_knows_nothing_without_a_trial():
    """No trial: anything is possible."""
    assert (wilson(0, 0).low, wilson(0, 0).estimate, wilson(0, 0).high) == (0.0, 0.0, 1.0)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=10))
def test_centre_is_the_median_over_all_pairs(values: list[float]):
    """Each value is paired with itself too."""
    pairs = itertools.combinations_with_replacement(values, 2)
    assert centre(values) == pytest.approx(median((a + b) / 2 for a, b in pairs))


ROWS = st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=2, max_size=12)


@given(ROWS)
def test_nonnegative_slopes_are_the_best_on_a_fine_grid(rows: list[tuple[float, float, float]]):
    """Slow and literal: no pair of slopes >= 0 near or far leaves smaller squares."""
    y, a, b = zip(*rows, strict=True)

    def squares(p: float, q: float) -> float:
        return sum((u - p * v - q * w) ** 2 for u, v, w in zip(y, a, b, strict=True))

    p, q = nonnegative_slopes(y, a, b)
    steps = [s * 10.0**e for e in range(-4, 2) for s in (-1, 0, 1)]
    assert min(p, q) >= 0
    if max(p, q) < 1e3:  # beyond, the grid's arithmetic is worse than the solution
        best = squares(p, q)
        assert all(best <= squares(max(0, p + d), max(0, q + e)) + 1e-5 * (1 + best) for d in steps for e in steps)


def density_within(freedom: int, t: float, parts: int = 4000) -> float:
    """P(|T| <= t) as Simpson's sum of Student's density."""
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    heights = [(1 + (t * i / parts) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(parts + 1)]
    return 2 * scale * t / parts / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))


@pytest.mark.parametrize("freedom", [*range(1, 12), 30])
@pytest.mark.parametrize("t", [0.3, 1.0, 2.5, 9.0])
def test_student_within_is_the_integral_of_the_density(freedom: int, t: float):
    """The closed forms of odd and even degrees of freedom."""
    assert student_within(freedom, t) == pytest.approx(density_within(freedom, t), abs=1e-9)


@pytest.mark.parametrize(
    ("freedom", "alpha", "bound"),
    [(1, 0.05, 12.706), (4, 0.05, 2.776), (7, 0.01, 3.499), (10, 0.01, 3.169), (7, 0.001, 5.408)],
)
def test_student_bound_is_the_table(freedom: int, alpha: float, bound: float):
    """As printed in any table of Student's distribution."""
    assert student_bound(freedom, alpha) == pytest.approx(bound, abs=5e-4)
