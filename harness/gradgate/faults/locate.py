"""Lines for checks that failed without one: each is looked for by trials, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from gradgate.compare.checkout import changed_sources
from gradgate.core import workers
from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Result, Verdict
from gradgate.faults.repair import Suspect, knows_its_line, suspect
from gradgate.faults.revert import Guilty, Hunk, guilty, hunks
from gradgate.faults.trial import trial_of
from gradgate.subjects.contract import Subject

RUNS = 6  # of a check: as many as it takes to tell one place from three
_SLACK = 30.0  # seconds for the check itself, once more whole, before changes are tried


def nameless(verdict: Verdict) -> list[Result]:
    """Results that failed and whose errors name no line."""
    failed = [result for result in verdict.results if result.status == "failed"]
    return [result for result in failed if _named(result) is None]


def outside(places: Mapping[str, Sequence[Hunk]]) -> Callable[[Result], bool]:
    """Whether a check failed and names no line, a guess, or one in none of the places that differ from a base: such a
    line may suffer from another one that does."""

    def is_outside(result: Result) -> bool:
        named = _named(result)
        inside = named is not None and any(hunk.holds(named) for some in places.values() for hunk in some)
        return result.status == "failed" and (is_unsure(result) or not inside)

    return is_outside


def is_unsure(result: Result) -> bool:
    """Whether a check failed and names no line, or one that is a guess and that no trial has shown."""
    shown = any("repair" in finding.detail for finding in result.findings)
    return result.status == "failed" and not shown and not knows_its_line(result.code, _named(result))


def locate(
    verdict: Verdict,
    search: Callable[[Result], Suspect | Guilty | None],
    *,
    seconds: float,
    jobs: int,
    wanted: Callable[[Result], bool] = is_unsure,
    on_start: Callable[[Result], None] = lambda _: None,
) -> Verdict:
    """The verdict with a line for every failed check that lacks one and for which one is found.

    Args:
        verdict: of a subject.
        search: looks for the line of one result; it may change what it wants of the process that it runs in.
        seconds: that it takes at most, beside the check itself.
        jobs: processes at a time.
        wanted: whose line is looked for.
        on_start: called with the result whose line is looked for.

    Returns:
        The errors of such a result have the line as `culprit`, and in `detail["repair"]` the change with which the
        check passes. Nothing else differs.
    """
    results = list(verdict.results)
    numbers = [number for number, result in enumerate(results) if wanted(result)]
    found = workers.run(
        [[number] for number in numbers],
        lambda number: search(results[number]),
        jobs=max(1, jobs),
        timeout=7 * seconds + _SLACK,
        fresh=True,
        on_start=lambda number: on_start(results[number]),
    )
    with closing(found):  # type: ignore[type-var]  # a generator
        for index, answer in found:
            if isinstance(answer, Suspect | Guilty):
                results[numbers[index]] = _with_line(results[numbers[index]], answer)
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
        errors = [finding for finding in result.findings if finding.severity == "error"]
        return suspect(
            subject,
            result.code,
            result.stage,
            told=" ".join(f"{finding.message} {finding.fix}" for finding in errors),
            detail=errors[0].detail if errors else {},
            named=_named(result),
            seed=seed,
            baselines=baselines,
            seconds=seconds,
        )

    return search


def by_reverts(
    subject: Subject, places: Mapping[str, Sequence[Hunk]], *, seed: int, baselines: Path | None, seconds: float
) -> Callable[[Result], Guilty | None]:
    """Search among the places that differ from a base, by giving them its text.

    Args:
        subject: the trainer, loaded from the working tree.
        places: by revision, from `places_since`; the next one's where the check fails with the last one's text too.
        seed: of the checks.
        baselines: as the checks had them.
        seconds: for each check, after which nothing further is tried.
    """

    def search(result: Result) -> Guilty | None:
        passes = trial_of(subject, result.code, result.stage, seed=seed, baselines=baselines)
        end = time.monotonic() + seconds

        def passes_in_time() -> bool | None:
            passed = passes(max(1.0, end - time.monotonic()))
            return passed or (False if time.monotonic() < end else None)

        answers = (guilty(some, passes_in_time, ref) for ref, some in places.items())
        return next((answer for answer in answers if answer), None)

    return search


def places_since(refs: Sequence[str], source: Path) -> dict[str, list[Hunk]]:
    """The places below a folder that differ from each revision; those left out that its repository does not have, or
    from which nothing differs."""
    found = {}
    for ref in refs:
        with suppress(GradgateError):
            found[ref] = hunks(changed_sources(ref, source))
    return {ref: places for ref, places in found.items() if places}


def _named(result: Result) -> Location | None:
    """The line that the errors of a check name."""
    return next((f.culprit for f in result.findings if f.severity == "error" and f.culprit), None)


def _with_line(result: Result, found: Suspect | Guilty) -> Result:
    """The whole check passes, so that the place explains each of its errors."""
    named_before = _named(result)
    known = named_before if knows_its_line(result.code, named_before) else None

    def named(finding: Finding) -> Finding:
        if finding.severity != "error":
            return finding
        kept = f"; the check itself names {known}" if known and known != found.place else ""
        return replace(finding, culprit=found.place, detail={**finding.detail, "repair": found.message + kept})

    return replace(result, findings=tuple(map(named, result.findings)))
