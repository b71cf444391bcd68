"""Extrapolated central differences: exact where the function is smooth, silent where it is not."""

from __future__ import annotations

import math

import pytest

from gradgate.checks.finite_differences import derivative


@pytest.mark.parametrize(
    ("function", "slope"),
    [(math.exp, 1.0), (lambda x: math.sin(3 * x) + 2, 3.0), (lambda x: x**3, 0.0), (lambda x: 7.0, 0.0)],
)
def test_derivative_of_a_smooth_function_is_exact_to_ten_digits(function, slope: float) -> None:
    """Truncation is of fourth order and the roundoff that of float64."""
    found = derivative(function, tolerance=1e-8)

    assert found is not None
    assert found.value == pytest.approx(slope, abs=1e-10)


def test_derivative_steps_round_a_kink_nearby() -> None:
    """A kink at 1e-4 lies between the first points, not between the later ones."""
    found = derivative(lambda x: max(x, 1e-4), tolerance=1e-8)

    assert found is not None
    assert found.value == pytest.approx(0.0, abs=1e-8)


def test_derivative_that_is_not_as_expected_is_asked_at_smaller_steps() -> None:
    """A small kink close by is unseen at the first step, and puts it off by half its jump."""

    def bent(x: float) -> float:
        return x + 1e-4 * max(x, 2e-6)

    off = derivative(bent, tolerance=1e-6)
    assert off is not None and abs(off.value - 1.0) > 4e-5
    right = derivative(bent, 1e-6, expected=1.0, apart=4e-6)
    assert right is not None and right.value == pytest.approx(1.0, abs=4e-6)
    wrong = derivative(bent, 1e-6, expected=1.1, apart=4e-6)
    assert wrong == off


def test_derivative_is_none_where_nothing_converges() -> None:
    """A function with noise above the tolerance at every step has no slope to be compared with."""
    assert derivative(lambda x: float(hash(round(x * 1e12)) % 7), tolerance=1e-8) is None


def test_derivative_does_not_trust_steps_below_the_resolution_of_the_function():
    """A function in float32 that does not move at a small step has no slope of 0 there."""
    import numpy as np

    def rounded(x: float) -> float:
        return float(np.float32(3.0 + 0.01 * x))

    found = derivative(rounded, 1e-4, roundoff=3.0 * 2.0**-24)
    assert found is not None
    assert found.value == pytest.approx(0.01, abs=1e-4)
    assert derivative(rounded, 1e-6, roundoff=3.0 * 2.0**-24) is None
