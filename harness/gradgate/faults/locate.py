"""Lines for checks that failed without one: each is looked for by trial repairs, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from gradgate.core import workers
from gradgate.core.finding import Location
from gradgate.core.verdict import Result, Verdict
from gradgate.faults.repair import Suspect, knows_its_line, suspect
from gradgate.subjects.contract import Subject

_SLACK = 30.0  # seconds for the check itself, once more whole, before changes are tried


def nameless(verdict: Verdict) -> list[Result]:
    """Results that failed and whose errors name no line."""
    failed = [result for result in verdict.results if result.status == "failed"]
    return [result for result in failed if _named(result) is None]


def is_unsure(result: Result) -> bool:
    """Whether a check failed and names no line, or one that is a guess."""
    return result.status == "failed" and not knows_its_line(result.code, _named(result))


def locate(
    verdict: Verdict,
    subject: Subject,
    *,
    seconds: float,
    jobs: int,
    seed: int = 0,
    baselines: Path | None = None,
    on_start: Callable[[Result], None] = lambda _: None,
) -> Verdict:
    """The verdict with a line for every failed check that names none and for which one is found.

    Args:
        verdict: of the subject.
        subject: the trainer, loaded; nothing of it is changed here.
        seconds: for each check, after which no further change is tried.
        jobs: processes at a time.
        seed: of the checks.
        baselines: as the checks had them.
        on_start: called with the result whose line is looked for.

    Returns:
        The first error of such a result has the line as `culprit`, and in `detail["repair"]` the change with which the
        check passes. Nothing else differs.
    """
    results = list(verdict.results)
    wanted = [number for number, result in enumerate(results) if is_unsure(result)]

    def search_one(number: int) -> Suspect | None:
        return search(subject, results[number], seed=seed, baselines=baselines, seconds=seconds)

    groups = [[number] for number in wanted]
    found = workers.run(
        groups,
        search_one,
        jobs=max(1, jobs),
        timeout=7 * seconds + _SLACK,
        fresh=True,
        on_start=lambda number: on_start(results[number]),
    )
    with closing(found):  # type: ignore[type-var]  # a generator
        for index, answer in found:
            if isinstance(answer, Suspect):
                results[wanted[index]] = _with_line(results[wanted[index]], answer)
    return replace(verdict, results=tuple(results))


def search(subject: Subject, result: Result, *, seed: int, baselines: Path | None, seconds: float) -> Suspect | None:
    """The line of a check that failed, by what it says and by trial repairs; arguments as for `locate`."""
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


def _named(result: Result) -> Location | None:
    """The line that the errors of a check name."""
    return next((f.culprit for f in result.findings if f.severity == "error" and f.culprit), None)


def _with_line(result: Result, found: Suspect) -> Result:
    findings = result.findings
    index = next(number for number, finding in enumerate(findings) if finding.severity == "error")
    named = replace(findings[index], culprit=found.place, detail={**findings[index].detail, "repair": found.message})
    return replace(result, findings=(*findings[:index], named, *findings[index + 1 :]))
