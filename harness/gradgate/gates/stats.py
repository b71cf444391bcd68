"""Estimates and intervals of paired ratios. Pure: sequences in, records out; no clock, no draw, no global."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, cos, exp, inf, log, pi, sin, sqrt
from statistics import median


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between two bounds, all in the same unit."""

    low: float
    estimate: float
    high: float


def paired_ratio(ratios: Sequence[float], alpha: float) -> Interval:
    """The centre of paired ratios and its distribution-free interval, in closed form.

    Args:
        ratios: head over base, one a block, > 0.
        alpha: error allowed on each side, in (0, 0.5).

    Returns:
        The all-pairs median (Hodges-Lehmann) on the logarithm and the bounds that invert the exact signed-rank test;
        unbounded where so few ratios can bear no such alpha.

    Raises:
        ValueError: there is no ratio, or one is not > 0.

    Source: Hodges and Lehmann 1963, Ann. Math. Stat. 34:598; Hollander, Wolfe and Chicken 2014, section 3.3.
    """
    if not ratios or any(not ratio > 0 for ratio in ratios):
        raise ValueError(f"expected ratios > 0, got {list(ratios)}")
    means = walsh_means([log(ratio) for ratio in ratios])
    beyond = critical_rank(len(ratios), alpha)
    low, high = (-inf, inf) if beyond is None else (means[beyond], means[-1 - beyond])
    return Interval(exp(low), exp(median(means)), exp(high))


def centre(values: Sequence[float]) -> float:
    """The all-pairs median of some values; up to a third of them may be wild."""
    return median(walsh_means(values))


def walsh_means(values: Sequence[float]) -> list[float]:
    """Means of all pairs, each value paired with itself too, in ascending order."""
    return sorted((a + b) / 2 for i, a in enumerate(values) for b in values[i:])


@lru_cache(maxsize=256)
def critical_rank(n: int, alpha: float) -> int | None:
    """The largest rank sum that n signed ranks reach or stay below with probability <= alpha; None: not even 0 does.

    Source: the exact null distribution, by the generating function prod (1 + x^i); Wilcoxon 1945, Biometrics 1:80.
    """
    counts = [1]
    for rank in range(1, n + 1):
        padded = counts + [0] * rank
        counts = [count + (padded[i - rank] if i >= rank else 0) for i, count in enumerate(padded)]
    total, found = 0, None
    for rank_sum, count in enumerate(counts):
        total += count
        if total / 2**n > alpha:
            return found
        found = rank_sum
    return found


def wilson(hits: int, trials: int, z: float = 1.96) -> Interval:
    """A share with its Wilson interval; (0, 0, 1) without a trial.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.
    """
    if trials == 0:
        return Interval(0.0, 0.0, 1.0)
    share, weight = hits / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / weight
    half = z * sqrt((share * (1 - share) + z * z / (4 * trials)) / trials) / weight
    return Interval(min(share, max(0.0, middle - half)), share, max(share, min(1.0, middle + half)))


def nonnegative_slopes(y: Sequence[float], a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Least squares of y on a and b through the origin, neither slope below 0.

    Args:
        y: what is explained.
        a: one thing that may have added to it.
        b: another, of the same length.

    Returns:
        Both slopes; 0 for one that explains nothing, or that would have taken away.
    """
    aa, bb, ab, ay, by = (_dot(*pair) for pair in ((a, a), (b, b), (a, b), (a, y), (b, y)))
    determinant = aa * bb - ab * ab
    if determinant > 1e-9 * aa * bb:
        both = (ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant
        if min(both) >= 0:
            return both
    alone_a, alone_b = max(0.0, ay / aa if aa else 0.0), max(0.0, by / bb if bb else 0.0)
    return (alone_a, 0.0) if alone_a * ay >= alone_b * by else (0.0, alone_b)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


@lru_cache(maxsize=256)
def student_bound(freedom: int, alpha: float) -> float:
    """What the size of a Student-t variable stays below, but for a share of alpha.

    Args:
        freedom: degrees of freedom, at least 1.
        alpha: both tails together, in (0, 1).

    Returns:
        t with P(|T| > t) = alpha.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4, solved by bisection.
    """
    low, high = 0.0, 1.0
    while 1 - student_within(freedom, high) > alpha:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - student_within(freedom, middle) > alpha else (low, middle)
    return high


def student_within(freedom: int, t: float) -> float:
    """P(|T| <= t) of a Student-t variable, in closed form; t >= 0.

    Source: Abramowitz and Stegun 1964, 26.7.3 (odd degrees of freedom) and 26.7.4 (even ones).
    """
    angle = atan(t / sqrt(freedom))
    odd = freedom % 2
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    for i in range(freedom // 2):
        total += term
        term *= cos(angle) ** 2 * ((2 * i + 2) / (2 * i + 3) if odd else (2 * i + 1) / (2 * i + 2))
    return (angle + sin(angle) * total) * 2 / pi if odd else sin(angle) * total
