"""The plan of a run, and the tally of its results: they come in as checks end and are told in catalogue order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from gradgate.checks.catalogue import Check
from gradgate.core.rule import Rule
from gradgate.core.verdict import Result, Status
from gradgate.subjects.contract import Stage

BAD: tuple[Status, ...] = ("failed", "error")


@dataclass(frozen=True, slots=True)
class Unit:
    """A check on one stage, or on the subject as a whole."""

    check: Check
    stage: Stage | None


@dataclass(frozen=True, slots=True)
class Plan:
    """One rule: either settled without running, or what is to run for it."""

    rule: Rule
    units: tuple[Unit, ...] = ()
    settled: Result | None = None


class Tally:
    """Results as they come in, told in catalogue order.

    Args:
        plans: in that order.
        settle: a plan and the results of its units -> what they come to.
        on_result: called with each result that is told.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        settle: Callable[[Plan, Sequence[Result]], list[Result]],
        on_result: Callable[[Result], None] | None,
    ) -> None:
        self.units = [unit for plan in plans for unit in plan.units]
        self.results: list[Result] = []
        self._settle, self._on_result = settle, on_result
        self._done: dict[int, Result] = {}
        ends = list(accumulate((len(plan.units) for plan in plans), initial=0))
        self._waiting = deque((plan, range(*ends[i : i + 2])) for i, plan in enumerate(plans))

    def add(self, number: int, result: Result) -> None:
        """Note the result of a unit."""
        self._done[number] = result
        while self._waiting and all(other in self._done for other in self._waiting[0][1]):
            self._tell(*self._waiting.popleft())

    def is_bad(self) -> bool:
        """Whether something told so far has failed."""
        return any(result.status in BAD for result in self.results)

    def close(self) -> tuple[str, ...]:
        """Tell what is known of the rest.

        Returns:
            The codes of rules that have not run, or not everywhere.
        """
        not_run = [plan.rule.code for plan, numbers in self._waiting if any(n not in self._done for n in numbers)]
        while self._waiting:
            self._tell(*self._waiting.popleft())
        return tuple(not_run)

    def _tell(self, plan: Plan, numbers: range) -> None:
        known = [self._done[number] for number in numbers if number in self._done]
        settled = self._settle(plan, [plan.settled] if plan.settled else known)
        self.results += settled
        if self._on_result:
            for result in settled:
                self._on_result(result)
