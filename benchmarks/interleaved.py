"""Two ways to do the same thing, timed in turns in one process, and the ratio of their times with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """The ratio of two times over the rounds.

    Attributes:
        median: of the rounds' ratios, slow / fast.
        low: their lower quartile.
        high: their upper quartile.
        slow_ms: median time of the slow one.
        fast_ms: median time of the fast one.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    slow_ms: float
    fast_ms: float
    rounds: int

    def __str__(self) -> str:
        """The ratio, its quartiles, and both times."""
        spread = f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"
        return f"{spread}  {self.slow_ms:.3f} ms / {self.fast_ms:.3f} ms, {self.rounds} rounds"


def ratio(
    slow: Callable[[], object],
    fast: Callable[[], object],
    *,
    rounds: int,
    repeat_fast: int = 1,
    clock: Callable[[], float] = time.thread_time,
) -> Ratio:
    """Time both in turns, the order swapped in every round.

    Args:
        slow: the numerator.
        fast: the denominator.
        rounds: pairs of measurements.
        repeat_fast: how often the fast one runs in each measurement, where it is too short to time alone.
        clock: seconds; CPU seconds of this thread, since waiting for a core is not the code's doing.
    """
    slow(), fast()  # warm up
    pairs = []
    for number in range(rounds):
        if number % 2:
            fast_s, slow_s = _seconds(fast, repeat_fast, clock), _seconds(slow, 1, clock)
        else:
            slow_s, fast_s = _seconds(slow, 1, clock), _seconds(fast, repeat_fast, clock)
        pairs.append((slow_s, fast_s))
    ratios = [slow_s / fast_s for slow_s, fast_s in pairs]
    low, median, high = statistics.quantiles(ratios, n=4)
    slow_ms, fast_ms = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    return Ratio(median, low, high, slow_ms, fast_ms, rounds)


def _seconds(work: Callable[[], object], times: int, clock: Callable[[], float]) -> float:
    """Seconds for one run."""
    began = clock()
    for _ in range(times):
        work()
    return (clock() - began) / times
