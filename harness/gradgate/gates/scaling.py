"""Scaling: with which exponent a cost grows, from its values at a size, twice and four times it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log2
from typing import Literal, TypeVar

from gradgate.gates.stats import critical_rank, walsh_means

STEPS = (1, 2, 4)  # sizes, as multiples of the smallest
COUNTER_SLACK = 0.1  # on the exponent of an exact counter: terms of lower order, such as S + 1 labels
TIME_SLACK = 0.5  # on that of time, where larger sizes also leave the caches; a power too much is a whole one
RELEVANT = 0.1  # share of the largest size's time that has to be in excess
ALPHA = 0.01  # error on each side of a time's interval

Costs = tuple[float, float, float]
Key = TypeVar("Key")


def growth_exponent(costs: Costs) -> float:
    """The exponent p of a + b n^p through three costs, whatever the constant a.

    Args:
        costs: at n, 2n and 4n.

    Returns:
        log2 of the second increment over the first; 0 where the cost does not grow in the end, infinite where it only
        grows in the end.
    """
    first, second = costs[1] - costs[0], costs[2] - costs[1]
    if second <= 0:
        return 0.0
    return log2(second / first) if first > 0 else inf


def excess(costs: Costs, exponent: float) -> float:
    """By how much the second increment is more than the exponent allows after the first; in the cost's unit."""
    return (costs[2] - costs[1]) - 2**exponent * max(0.0, costs[1] - costs[0])


def grows_faster(costs: Costs, exponent: float) -> bool:
    """Whether an exact counter grows faster than declared."""
    return growth_exponent(costs) > exponent + COUNTER_SLACK


def key_of_excess(shares: Sequence[Mapping[Key, int]], exponent: float) -> Key | None:
    """The line, or whatever the shares are by, that grows most beyond the exponent; None where none does.

    Args:
        shares: of the cost, at n, 2n and 4n.
        exponent: the declared one.
    """
    one, two, four = shares
    keys = dict.fromkeys([*one, *two, *four])
    over = {key: excess((one.get(key, 0), two.get(key, 0), four.get(key, 0)), exponent) for key in keys}
    worst = max(over, key=lambda key: over[key], default=None)
    return worst if worst is not None and over[worst] > 0 else None


@dataclass(frozen=True, slots=True)
class TimeGrowth:
    """What rounds of timings at three sizes say.

    Args:
        verdict: fail, pass, or None: too noisy to say.
        exponent: `growth_exponent` of the fastest steps.
        excess: of the time at the largest size, as a share of it: estimate and both bounds, in that order.
    """

    verdict: Literal["fail", "pass"] | None
    exponent: float
    excess: tuple[float, float, float]


def time_growth(rounds: Sequence[Costs], exponent: float) -> TimeGrowth:
    """Judge a time's growth.

    Args:
        rounds: seconds at n, 2n and 4n, taken next to each other; enough of them to bear `ALPHA`, 7 or more.
        exponent: the declared one.

    Returns:
        Fail where the excess beyond exponent + `TIME_SLACK` is more than `RELEVANT` and surely more than half of it,
        pass where it is surely less than `RELEVANT`. The estimate is the all-pairs median of the rounds, the bounds
        invert the signed-rank test; both as for paired ratios, linear in the times, so that no increment is divided by.
    """
    factor = 2 ** (exponent + TIME_SLACK)
    means = walsh_means([((four - two) - factor * (two - one)) / four for one, two, four in rounds])
    beyond = critical_rank(len(rounds), ALPHA)
    low, high = (-inf, inf) if beyond is None else (means[beyond], means[-1 - beyond])
    estimate = (means[(len(means) - 1) // 2] + means[len(means) // 2]) / 2
    verdict: Literal["fail", "pass"] | None = None
    if estimate > RELEVANT and low > RELEVANT / 2:
        verdict = "fail"
    elif high < RELEVANT:
        verdict = "pass"
    fastest: Costs = (min(r[0] for r in rounds), min(r[1] for r in rounds), min(r[2] for r in rounds))
    return TimeGrowth(verdict, growth_exponent(fastest), (estimate, low, high))
