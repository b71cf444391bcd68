"""Trends of short series: the exact Mann-Kendall test, the net fall, the highest spike. Pure; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite


@dataclass(frozen=True, slots=True)
class Trend:
    """The Mann-Kendall test of a series against a downward trend.

    Args:
        falls: pairs of which the later is lower.
        rises: pairs of which the later is higher.
        p_down: probability of at least so many falls if every order of the values were equally likely; exact.
    """

    falls: int
    rises: int
    p_down: float


def mann_kendall(series: Sequence[float]) -> Trend:
    """Test whether a series falls.

    Args:
        series: finite values in their order, equally spaced or not; ties are allowed.

    Returns:
        The counts and the exact one-sided p-value; 1.0 for fewer than two values.

    Raises:
        ValueError: a value is NaN or infinite.

    Source: Mann 1945, Econometrica 13:245; Kendall 1938, Biometrika 30:81. The number of falls over the orders of a
    multiset has the q-multinomial coefficient as its generating function (MacMahon 1915).
    """
    if not all(isfinite(value) for value in series):
        raise ValueError("the series has values that are not finite")
    pairs = [(a, b) for i, a in enumerate(series) for b in series[i + 1 :]]
    falls = sum(b < a for a, b in pairs)
    counts = _orders_by_falls(list(Counter(series).values()))
    return Trend(falls, sum(b > a for a, b in pairs), float(Fraction(sum(counts[falls:]), sum(counts))))


def smallest_p(length: int) -> float:
    """The p-value of a strictly falling series of this length: no test can be more certain. 1 / length!."""
    return mann_kendall([float(-i) for i in range(length)]).p_down


def net_fall(series: Sequence[float]) -> float:
    """First value minus last, as a share of the first value's size."""
    return (series[0] - series[-1]) / abs(series[0]) if series[0] else 0.0


def late_fall(series: Sequence[float]) -> float:
    """What the second half of a series adds to its fall, as a share of the whole fall.

    Returns:
        0.5 for a straight line, less for a curve that levels off; 0 where the series does not fall.
    """
    fall = series[0] - series[-1]
    return (series[len(series) // 2] - series[-1]) / fall if fall > 0 else 0.0


def highest_spike(series: Sequence[float]) -> float:
    """Largest rise over the running minimum, as a share of the total fall (first minus minimum).

    Returns:
        A share >= 0; infinite where the series rises and never falls.
    """
    lowest, rise = series[0], 0.0
    for value in series:
        lowest = min(lowest, value)
        rise = max(rise, value - lowest)
    fall = series[0] - lowest
    return rise / fall if fall > 0 else (float("inf") if rise > 0 else 0.0)


def _orders_by_falls(group_sizes: Sequence[int]) -> list[int]:
    """How many distinct orders of a multiset have 0, 1, 2, ... falls: [n]_q! / prod [size]_q!."""
    polynomial, total = [1], 0
    for size in group_sizes:
        for i in range(1, size + 1):  # times [total + i]_q, divided by [i]_q: a Gaussian binomial, always whole
            polynomial = _divided(_multiplied(polynomial, total + i), i)
        total += size
    return polynomial


def _multiplied(polynomial: list[int], n: int) -> list[int]:
    """Times 1 + q + ... + q**(n-1), as a running window sum."""
    padded = polynomial + [0] * (n - 1)
    result, window = [], 0
    for i, coefficient in enumerate(padded):
        window += coefficient - (padded[i - n] if i >= n else 0)
        result.append(window)
    return result


def _divided(polynomial: list[int], n: int) -> list[int]:
    """Divided by 1 + q + ... + q**(n-1); exact by construction."""
    result: list[int] = []
    for i in range(len(polynomial) - n + 1):
        result.append(polynomial[i] - sum(result[max(0, i - n + 1) : i]))
    return result
