"""Consequences: one fault makes many checks raise. Those without a line take it from the check that named the fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradgate.checks.raised import kind_of
from gradgate.core.finding import Finding, Kind
from gradgate.core.verdict import Result

# What autograd says -> the kinds of finding that make it say so. An optimizer's write is one in place as well.
_CAUSES: dict[Kind, tuple[Kind, ...]] = {
    "inplace_saved": ("inplace_saved", "optimizer_step_between"),
    "inplace_leaf": ("inplace_leaf",),
    "inplace_view": ("inplace_view",),
    "freed_graph": ("freed_graph",),
}


def traced(results: Sequence[Result]) -> list[Result]:
    """The results, with the line of the cause where a finding has none and tells of an error of autograd's.

    Args:
        results: of one run, in any order.

    Returns:
        The same results. A finding whose message quotes such an error has the culprit and the fix of the finding that
        explains it, and its code in `detail["follows"]`, if all findings that could explain it name one line.
    """
    found = [finding for result in results for finding in result.findings]
    named = [finding for finding in found if finding.culprit and kind_of(finding.message) == "other"]

    def explained(finding: Finding) -> Finding:
        kinds = _CAUSES.get(kind_of(finding.message), ())
        causes = [cause for cause in named if cause.kind in kinds]
        if finding.culprit or len({(cause.culprit.file, cause.culprit.line) for cause in causes if cause.culprit}) != 1:
            return finding
        cause = causes[0]
        why = f"this follows from {cause.code} {cause.name}, which names the line"
        detail = {**finding.detail, "follows": cause.code}
        return replace(finding, culprit=cause.culprit, fix=cause.fix, why=why, detail=detail)

    return [replace(result, findings=tuple(map(explained, result.findings))) for result in results]
