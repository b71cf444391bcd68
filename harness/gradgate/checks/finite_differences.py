"""The derivative of a function of one number at 0, with an error that is estimated, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Largest first try that keeps the extrapolated truncation error, of order h**4, near float64's resolution. Smaller ones
# step round a kink (ReLU) close by, at the price of roundoff; the last one is for losses with float32 inside.
STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-2)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A derivative and how far off it may be, both in units of the function per unit of its argument."""

    value: float
    error: float


def derivative(
    function: Callable[[float], float],
    tolerance: float,
    roundoff: float = 0.0,
    expected: float | None = None,
    apart: float = 0.0,
) -> Estimate | None:
    """Central differences at h, h/2 and h/4, extrapolated twice; the two results' distance is the error.

    A kink between the points makes the two disagree by 7/6 * jump * distance / h, so that one goes unseen only within
    tolerance / jump * h of the point itself. The next step is then tried. One that goes unseen puts the estimate off by
    half its jump: of thousands of units with small jumps one is as near as that in a point of a hundred. So an estimate
    that is off what is expected counts where every smaller step says so as well.

    Args:
        function: the function; called six times for each step tried.
        tolerance: the error that is acceptable, in units of the derivative.
        roundoff: half the distance of neighbouring values of the function, where that is coarse: a step so small that
            the function does not move gives three differences of 0, which agree and mean nothing.
        expected: what the derivative is held against; None: nothing.
        apart: how far off that it may be.

    Returns:
        The first estimate whose error is at most `tolerance` and that is as expected; without one the first; None where
        there is none.
    """
    first: Estimate | None = None
    for h in STEPS:
        d1, d2, d4 = ((function(x) - function(-x)) / (2 * x) for x in (h, h / 2, h / 4))
        coarse, fine = (4 * d2 - d1) / 3, (4 * d4 - d2) / 3
        error = max(abs(fine - coarse), roundoff / h)
        if error <= tolerance:
            if expected is None or abs(fine - expected) <= apart:
                return Estimate(fine, error)
            first = first or Estimate(fine, error)
    return first
