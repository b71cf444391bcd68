"""Lines for checks that failed without one: each is looked for by trials, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from gradgate.compare.checkout import changed_sources
from gradgate.core import workers
from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding
from gradgate.core.verdict import Result, Verdict
from gradgate.faults.repair import Suspect, suspect
from gradgate.faults.revert import Guilty, guilty, hunks
from gradgate.faults.trial import trial_of
from gradgate.subjects.contract import Subject

_SLACK = 30.0  # seconds for the check itself, once more whole, before changes are tried


def nameless(verdict: Verdict) -> list[Result]:
    """Results that failed and whose errors name no line."""
    return [result for result in verdict.results if _is_nameless(result)]


def locate(
    verdict: Verdict,
    search: Callable[[Result], Suspect | Guilty | None],
    *,
    seconds: float,
    jobs: int,
    on_start: Callable[[Result], None] = lambda _: None,
) -> Verdict:
    """The verdict with a line for every failed check that names none and for which one is found.

    Args:
        verdict: of a subject.
        search: looks for the line of one result; it may change what it wants of the process that it runs in.
        seconds: that it takes at most, beside the check itself.
        jobs: processes at a time.
        on_start: called with the result whose line is looked for.

    Returns:
        The errors of such a result have the line as `culprit`, and in `detail["repair"]` the change with which the
        check passes. Nothing else differs.
    """
    results = list(verdict.results)
    wanted = [number for number, result in enumerate(results) if _is_nameless(result)]
    found = workers.run(
        [[number] for number in wanted],
        lambda number: search(results[number]),
        jobs=max(1, jobs),
        timeout=2 * seconds + _SLACK,
        fresh=True,
        on_start=lambda number: on_start(results[number]),
    )
    with closing(found):  # type: ignore[type-var]  # a generator
        for index, answer in found:
            if isinstance(answer, Suspect | Guilty):
                results[wanted[index]] = _with_line(results[wanted[index]], answer)
    return replace(verdict, results=tuple(results))


def by_repairs(
    subject: Subject, *, seed: int, baselines: Path | None, seconds: float
) -> Callable[[Result], Suspect | None]:
    """Search by trial repairs.

    Args:
        subject: the trainer, loaded.
        seed: of the checks.
        baselines: as the checks had them.
        seconds: for each check, after which no further change is tried.
    """

    def search(result: Result) -> Suspect | None:
        return suspect(subject, result.code, result.stage, seed=seed, baselines=baselines, seconds=seconds)

    return search


def by_reverts(
    subject: Subject, ref: str, *, seed: int, baselines: Path | None, seconds: float
) -> Callable[[Result], Guilty | None]:
    """Search among the places that differ from a base, by giving them its text.

    Args:
        subject: the trainer, loaded from the working tree; without `source` nothing is found.
        ref: the base: a revision.
        seed: of the checks.
        baselines: as the checks had them.
        seconds: for each check, after which nothing further is tried.
    """
    try:
        found = hunks(changed_sources(ref, subject.source)) if subject.source else []
    except GradgateError:  # the trainer's source is in no repository, or in one without this revision
        found = []

    def search(result: Result) -> Guilty | None:
        passes = trial_of(subject, result.code, result.stage, seed=seed, baselines=baselines)
        end = time.monotonic() + seconds

        def passes_in_time() -> bool | None:
            passed = passes(max(1.0, end - time.monotonic()))
            return passed or (False if time.monotonic() < end else None)

        return guilty(found, passes_in_time, ref)

    return search


def _is_nameless(result: Result) -> bool:
    errors = [finding for finding in result.findings if finding.severity == "error"]
    return result.status == "failed" and not any(finding.culprit for finding in errors)


def _with_line(result: Result, found: Suspect | Guilty) -> Result:
    """The whole check passes, so that the place explains each of its errors."""

    def named(finding: Finding) -> Finding:
        if finding.severity != "error":
            return finding
        return replace(finding, culprit=found.place, detail={**finding.detail, "repair": found.message})

    return replace(result, findings=tuple(map(named, result.findings)))
