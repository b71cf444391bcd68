"""Wald's sequential test of a success probability: seeds are run until the case is clear. Pure; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log
from typing import Literal

Decision = Literal["good", "bad", "undecided"]


@dataclass(frozen=True, slots=True)
class SequentialTest:
    """Good: a seed succeeds with probability `p_good` or more. Bad: with `p_bad` or less.

    Args:
        p_good: in (p_bad, 1).
        p_bad: in (0, p_good).
        most: seeds after which an open case stays undecided.
        error: probability at which a good subject is called bad, and a bad one good; Wald's bounds keep both, and
            their sum, below error / (1 - error) and 2 * error.
    """

    p_good: float
    p_bad: float
    most: int
    error: float = 0.05

    def decide(self, successes: int, failures: int) -> Decision:
        """The decision after so many seeds, the order does not matter."""
        ratio = successes * log(self.p_bad / self.p_good) + failures * log((1 - self.p_bad) / (1 - self.p_good))
        bound = log((1 - self.error) / self.error)
        return "bad" if ratio >= bound else "good" if ratio <= -bound else "undecided"

    def run(self, seeds: Iterable[int], succeeds: Callable[[int], bool]) -> tuple[Decision, dict[int, bool]]:
        """Try seed after seed until the case is clear.

        Args:
            seeds: in the order in which to try them.
            succeeds: whether the subject succeeds with a seed.

        Returns:
            The decision, and what each seed that was tried gave.
        """
        tried: dict[int, bool] = {}
        decision: Decision = "undecided"
        for seed, _ in zip(seeds, range(self.most), strict=False):
            tried[seed] = succeeds(seed)
            decision = self.decide(sum(tried.values()), len(tried) - sum(tried.values()))
            if decision != "undecided":
                break
        return decision, tried


# log(19) = 2.94 must be crossed. quick: 2 successes (-3.12) or 2 failures (+5.55); pr: 4 successes (-2.99) or 2
# failures (+4.80); nightly: 10 successes (-3.05) or 2 failures (+3.58). `most` leaves room for one failure among
# successes: quick 4 (-3.46), pr 8 (-3.58), nightly 16 (-3.09); a single odd seed is then decided, not left open.
BY_PROFILE = {
    "quick": SequentialTest(p_good=0.95, p_bad=0.2, most=5),
    "pr": SequentialTest(p_good=0.95, p_bad=0.45, most=9),
    "nightly": SequentialTest(p_good=0.95, p_bad=0.7, most=17),
}
