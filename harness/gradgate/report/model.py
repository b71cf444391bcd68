"""Report: a verdict with everything that a reader needs to see of it, ready to be written in any form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from gradgate.core.finding import SEVERITIES, Finding
from gradgate.core.rule import FAMILIES
from gradgate.core.verdict import STATUSES, Conclusion, Marked, Result, Verdict

SCHEMA_VERSION = 1
COSTS = "78"  # the families of speed and memory


@dataclass(frozen=True, slots=True)
class Report:
    """One run of the catalogue, as reports show it.

    Args:
        verdict: the decision.
        subject: the subject's name.
        environment: where and how it ran.
        results: one a check and stage, in catalogue order.
        counts: results by status; every status is there, with 0 too.
        families: results by the title of their family, in catalogue order, without those that are not built.
        not_built: codes of the rules that nothing looks for yet.
        not_run: codes of the rules that were asked for but not reached.
        interrupted: whether Ctrl-C ended the run.
        seconds: of the whole run.
        source: findings of the scanner with what a recorded run says of each.
        schema_version: of the JSON form.
    """

    verdict: Conclusion
    subject: str
    environment: Mapping[str, Any]
    results: tuple[Result, ...]
    counts: Mapping[str, int]
    families: Mapping[str, tuple[Result, ...]]
    not_built: tuple[str, ...]
    not_run: tuple[str, ...]
    interrupted: bool
    seconds: float
    source: tuple[Marked, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def having(self, *statuses: str) -> list[Result]:
        """The results with one of these statuses."""
        return [result for result in self.results if result.status in statuses]


def build(verdict: Verdict) -> Report:
    """The report of a verdict; a pure function of it."""
    results = verdict.results
    shown = {
        title: tuple(result for result in results if result.code[2] == digit and result.status != "not_built")
        for digit, title in FAMILIES.items()
    }
    return Report(
        verdict=verdict.conclusion,
        subject=verdict.subject,
        environment=verdict.environment,
        results=results,
        counts={status: sum(result.status == status for result in results) for status in STATUSES},
        families={title: group for title, group in shown.items() if group},
        not_built=tuple(result.code for result in results if result.status == "not_built"),
        not_run=verdict.not_run,
        interrupted=verdict.interrupted,
        seconds=verdict.seconds,
        source=verdict.source,
    )


def ranked(report: Report) -> list[Finding]:
    """The findings of what failed and what warned, worst first: what is wrong before what is slower or larger, and of
    these what has a line before what has none.

    A failure that is expected is not among them.
    """
    found = [each for result in report.results if result.status != "expected" for each in result.findings]

    def order(finding: Finding) -> tuple[int, bool, bool]:
        return SEVERITIES.index(finding.severity), finding.code[2] in COSTS, finding.culprit is None

    return sorted(found, key=order)


def plain(value: Any) -> Any:
    """A value in the types of strict JSON.

    Args:
        value: mappings, sequences, sets, records, tensors, arrays, numbers, and whatever else a check measured.

    Returns:
        dict, list, str, int, float, bool or None; NaN and infinities become "nan", "inf" and "-inf", which `float()`
        reads back; what has no such form becomes its text.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return plain(value.tolist())
    return str(value)
