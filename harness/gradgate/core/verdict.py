"""Outcome of one check, Result of one check on one stage, Verdict over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gradgate.core.finding import Finding

Status = Literal["passed", "failed", "expected", "not_applicable", "not_built", "inconclusive", "error"]
Conclusion = Literal["failed", "error", "inconclusive", "passed"]
Mark = Literal["confirmed", "refuted", "not_reached", "undecided"]
Series = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
STATUSES: tuple[str, ...] = get_args(Status)
MARKS: tuple[str, ...] = get_args(Mark)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check returns: facts and numbers. The runner turns it into a Result.

    Args:
        findings: faults, worst first; any of severity error fails the check.
        measured: the decisive numbers by name, the unit in the name (`weight_sum_error`, `fall_ratio`).
        allowed: the bounds they were held against, same names.
        inconclusive: why the numbers do not decide; empty where they do.
        not_applicable: why the check does not apply after all; empty where it does.
        series: what reports draw and nothing judges: name -> line -> (x, y) pairs; x is counted from 1, positions of a
            row from 0.
    """

    findings: tuple[Finding, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    allowed: Mapping[str, Any] = field(default_factory=dict)
    inconclusive: str = ""
    not_applicable: str = ""
    series: Series = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """One check on one stage (stage None: the subject as a whole), as JSON and reports show it."""

    code: str
    name: str
    status: Status
    stage: str | None = None
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    allowed: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    reproduce: str = ""
    series: Series = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Marked:
    """A finding of the scanner, and what a recorded run says of it.

    Args:
        finding: as the scanner has it.
        mark: confirmed: the recorder named the same fault at that line; not_reached: the line did not run; refuted: it
            ran, and a fault that would have been seen was not; undecided: it ran, and that settles nothing.
        reason: in one line.
    """

    finding: Finding
    mark: Mark
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision over all results of one run.

    Args:
        subject: the subject's name.
        environment: Python, torch, platform, threads, device, seed, profile.
        results: one a check and stage, in catalogue order.
        interrupted: whether Ctrl-C ended the run before all checks had run.
        not_run: codes of the rules that were asked for but not reached, after Ctrl-C or with exit-first.
        seconds: of the whole run; checks that ran side by side took more together.
        source: findings of the scanner in the subject's source, cross-checked; they never change the conclusion.
    """

    subject: str
    environment: Mapping[str, Any]
    results: tuple[Result, ...]
    interrupted: bool = False
    not_run: tuple[str, ...] = ()
    seconds: float = 0.0
    source: tuple[Marked, ...] = ()

    @property
    def conclusion(self) -> Conclusion:
        """`failed` if any failed, else `error`, else `inconclusive`, else `passed`.

        `expected`, `not_applicable` and `not_built` never change it; a run in which nothing passed proves nothing
        and is `inconclusive`, and so is one that was interrupted.
        """
        statuses = {result.status for result in self.results}
        if "failed" in statuses:
            return "failed"
        if "error" in statuses:
            return "error"
        if "inconclusive" in statuses or self.interrupted or "passed" not in statuses:
            return "inconclusive"
        return "passed"
