"""What a check's outcome comes to as a result: its status, its findings in order, and what was expected of it."""

from __future__ import annotations

from dataclasses import replace

from gradgate.core.errors import SubjectError
from gradgate.core.finding import SEVERITIES, Finding, Location
from gradgate.core.rule import Rule
from gradgate.core.verdict import Outcome, Result, Status


def status_of(outcome: Outcome) -> Status:
    """What an outcome comes to."""
    if any(finding.severity == "error" for finding in outcome.findings):
        return "failed"
    if outcome.not_applicable:
        return "not_applicable"
    return "inconclusive" if outcome.inconclusive else "passed"


def broken(rule: Rule, error: SubjectError) -> Outcome:
    """The outcome of a check on a subject that breaks its contract."""
    return Outcome(findings=(Finding(rule.code, rule.name, str(error), fix="see gradgate rule GG001"),))


def hung(rule: Rule, said: str, place: Location | None) -> Outcome:
    """The outcome of a check that was stopped; what it `said`, and where it was."""
    finding = Finding(
        rule.code,
        rule.name,
        f"the check {said} and was stopped",
        victim=place,
        why="a check that does not end has found nothing, and a step that does not end trains nothing",
        fix="look at the line where it was stopped; a check that is only slow wants a smaller subject, or --timeout",
    )
    return Outcome(findings=(finding,))


def told(outcome: Outcome, rule: Rule) -> tuple[Finding, ...]:
    """An outcome's findings, the worst first, each with a reason: its own, or the rule's."""
    worst_first = sorted(outcome.findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return tuple(finding if finding.why else replace(finding, why=rule.fails_when) for finding in worst_first)


def as_expected(result: Result, reason: str) -> Result:
    """A failure that is known, with its reason; any other result as it is."""
    return replace(result, status="expected", reason=reason) if result.status == "failed" else result


def as_unexpected(result: Result, rule: Rule, reason: str) -> Result:
    """A pass of what is known to fail, as a failure; any other result as it is."""
    if result.status != "passed":
        return result
    message = f"passed, though it is expected to fail ({reason})"
    finding = Finding(rule.code, rule.name, message, why=rule.fails_when, fix=f"take {rule.code} out of `expected`")
    return replace(result, status="failed", findings=(finding, *result.findings), reason=message)
