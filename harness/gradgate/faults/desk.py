"""The desk: which faults are still to be planted, and what noticed one must still be green on the unedited source."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from gradgate.core.workers import Lost
from gradgate.faults.worker import Report

Codes = tuple[str, ...]


class Desk:
    """What is handed out next, and which reports count by now.

    A check notices a fault if it fails with it and passes without it. The second is asked once, of those checks alone
    that failed, and as soon as one did: a source that is red is told in the first minute, and what never fails on any
    fault costs nothing.

    Args:
        count: of faults, known by their numbers here.

    Attributes:
        reports: the last one of each fault.
        red: codes that fail on the unedited source, and can notice nothing.
    """

    def __init__(self, count: int) -> None:
        self.reports: dict[int, Report | Lost] = {}
        self.red: set[str] = set()
        self._left = deque(range(count))
        self._untold: list[int] = []
        self._asked: list[str] = []  # not handed out yet
        self._met: set[str] = set()
        self._green: set[str] = set()

    def is_open(self) -> bool:
        """Whether there is something to hand out."""
        return bool(self._asked or self._left)

    def next(self) -> int | Codes | None:
        """A fault to plant, or codes to hold against the unedited source; None: nothing now."""
        if self._asked:
            codes, self._asked = tuple(sorted(self._asked)), []
            return codes
        return self._left.popleft() if self._left else None

    def add(self, fault: int, report: Report | Lost) -> list[int]:
        """Take the report on a fault; the faults whose outcome is known now."""
        self.reports[fault] = report
        self._untold.append(fault)
        new = codes_of(report) - self._met
        self._met |= new
        self._asked += sorted(new)
        return self._known()

    def settle(self, codes: Sequence[str], red: Collection[str]) -> list[int]:
        """Take what the unedited source said, where `red` of these codes fail; the faults whose outcome is known now.

        A fault that a red code noticed is left again, for the others.
        """
        self.red |= set(red)
        self._green |= set(codes) - self.red
        return self._known()

    def _known(self) -> list[int]:
        codes = {fault: codes_of(self.reports[fault]) for fault in self._untold}
        again = [fault for fault in self._untold if codes[fault] & self.red]
        known = [fault for fault in self._untold if codes[fault] <= self._green]
        self._left.extend(again)
        self._untold = [fault for fault in self._untold if fault not in {*again, *known}]
        return known


def codes_of(report: Report | Lost) -> set[str]:
    """Of the checks that noticed."""
    return set() if isinstance(report, Lost) else {notice.code for notice in report.notices}
