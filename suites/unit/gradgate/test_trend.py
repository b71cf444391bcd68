"""The trend test against a slow literal formula, by properties, and under a true null."""

from __future__ import annotations

from itertools import permutations
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradgate.checks.trend import highest_spike, late_fall, mann_kendall, net_fall, smallest_p

short_series = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=6)


def falls(series: tuple[float, ...]) -> int:
    """Pairs of which the later is lower, counted one by one."""
    return sum(series[j] < series[i] for i in range(len(series)) for j in range(i + 1, len(series)))


def literal_p(series: list[float]) -> float:
    """The share of all orders of the values with at least as many falls."""
    counts = [falls(order) for order in permutations(series)]
    return sum(count >= falls(tuple(series)) for count in counts) / len(counts)


@given(short_series)
def test_mann_kendall_equals_the_literal_count_over_all_orders(series: list[float]) -> None:
    """The p-value is exact, with ties and without."""
    assert mann_kendall(series).p_down == pytest.approx(literal_p(series), rel=1e-12)


@given(short_series)
def test_mann_kendall_depends_on_the_order_of_values_alone(series: list[float]) -> None:
    """Any increasing map of the values gives the same test."""
    assert mann_kendall([value**3 + 2 * value for value in series]) == mann_kendall(series)


def test_mann_kendall_is_calibrated_under_every_order() -> None:
    """Of all orders of 6 values at most alpha have p <= alpha."""
    p_values = [mann_kendall(order).p_down for order in permutations(range(6))]

    assert all(sum(p <= alpha for p in p_values) <= alpha * len(p_values) for alpha in (0.01, 0.05, 0.2))


def test_mann_kendall_counts_pairs() -> None:
    """Ties count as neither."""
    trend = mann_kendall([3.0, 1.0, 1.0, 2.0])

    assert (trend.falls, trend.rises) == (3, 2)


def test_mann_kendall_takes_a_long_series() -> None:
    """A hundred values need no enumeration."""
    assert mann_kendall([float(-i) for i in range(100)]).p_down == pytest.approx(0.0, abs=1e-150)


@pytest.mark.parametrize("value", [nan, inf])
def test_mann_kendall_refuses_values_that_are_not_finite(value: float) -> None:
    """NaN has no order."""
    with pytest.raises(ValueError, match="not finite"):
        mann_kendall([1.0, value])


@pytest.mark.parametrize(("length", "p"), [(1, 1.0), (3, 1 / 6), (4, 1 / 24)])
def test_smallest_p_is_one_order_of_all(length: int, p: float) -> None:
    """Only one order falls throughout."""
    assert smallest_p(length) == pytest.approx(p)


@pytest.mark.parametrize(
    ("series", "share"), [([4.0, 9.0, 3.0], 0.25), ([2.0, 3.0], -0.5), ([-2.0, -3.0], 0.5), ([0.0, 1.0], 0.0)]
)
def test_net_fall_is_a_share_of_the_first_value(series: list[float], share: float) -> None:
    """Relative to the start."""
    assert net_fall(series) == share


@pytest.mark.parametrize(
    ("series", "share"),
    [
        ([4.0, 2.0, 3.0, 0.0], 0.25),
        ([0.5, 0.25, 0.375, 0.0], 0.25),
        ([4.0, 3.0, 2.0], 0.0),
        ([1.0, 2.0], inf),
        ([1.0, 1.0], 0.0),
    ],
)
def test_highest_spike_is_a_share_of_the_total_fall(series: list[float], share: float) -> None:
    """A rise over the running minimum, against first minus minimum."""
    assert highest_spike(series) == share


@pytest.mark.parametrize(
    ("series", "share"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0], 0.5),
        ([5.0, 2.0, 1.0, 1.0, 1.0], 0.0),
        ([0.5, 0.25, 0.0], 0.5),
        ([1.0, 2.0, 3.0], 0.0),
        ([2.0, 2.0], 0.0),
        ([4.0, 2.0, 1.0, 0.0], 0.25),
    ],
)
def test_late_fall_is_what_the_second_half_adds(series: list[float], share: float) -> None:
    """A half for a line, nothing for a plateau or a rise."""
    assert late_fall(series) == share
