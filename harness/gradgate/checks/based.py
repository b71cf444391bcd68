"""A stage against its base: some metrics of a comparison as the outcome of a check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gradgate.core.comparison import Comparison, Metric
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome

FIX = 'meant? say so in pyproject.toml: [tool.gradgate.accept] {metric} = "reason"'
_PLACE = re.compile(r"(?P<file>.+):(?P<line>\d+)(?: in (?P<function>.+)\(\))?")


def outcome_of(found: Comparison, names: Sequence[str], rule: tuple[str, str]) -> Outcome:
    """What a comparison says of some metrics.

    Args:
        found: base against head.
        names: of the metrics.
        rule: code and name of the check.

    Returns:
        An error for each that failed, a note for each that improved or changed; inconclusive where one is noisy or
        cannot be compared, a noisy wall clock aside, and where a side does not run.
    """
    if found.broken:
        return Outcome(inconclusive="{side} broke, while {doing}: {error}".format(**found.broken))
    metrics = [metric for metric in found.metrics if metric.metric in names]
    measured = {metric.metric: metric.head if metric.ratio is None else metric.ratio for metric in metrics}
    allowed = {
        metric.metric: metric.base if metric.ratio is None else 1 + (metric.tolerance or 0.0)
        for metric in metrics
        if metric.metric != "op_signature"
    }
    findings = [
        _finding(metric, rule, found.base, found.self_check)
        for metric in metrics
        if metric.verdict in ("fail", "improved", "changed")
    ]
    if found.self_check and any(metric.ratio is not None for metric in metrics):
        measured["false_alarms_of_identical_code"] = found.self_check["false_alarms"]
        measured["pairs_of_identical_code"] = found.self_check["pairs"]
    open_ = [one for one in metrics if one.verdict in ("noisy", "incomparable") and one.metric != "wall_time"]
    reason = "; ".join(f"{metric.metric} is {metric.verdict}: {metric.reason}" for metric in open_)
    if not metrics:
        reason = "; ".join(found.notes) or "the comparison has none of these metrics"
    return Outcome(tuple(findings), measured, allowed, inconclusive=reason)


def _finding(metric: Metric, rule: tuple[str, str], base: str, check: Mapping[str, Any]) -> Finding:
    severe = metric.verdict == "fail"
    return Finding(
        *rule,
        f"{_numbers(metric)} against {base}" + (f", {metric.reason}" if metric.reason else "") + _alarms(metric, check),
        severity="error" if severe else "note",
        culprit=_location(metric),
        fix=FIX.format(metric=metric.metric) if severe else "",
        detail=metric.tree(),
    )


def _alarms(metric: Metric, check: Mapping[str, Any]) -> str:
    """The observed false-alarm rate, which stands beside every verdict on time."""
    if metric.ratio is None or not check:
        return ""
    return f"; false alarms so far: {check['false_alarms']} of {check['pairs']} A/A pairs"


def _numbers(metric: Metric) -> str:
    if metric.ratio is not None and metric.interval is not None:
        low, high = (bound - 1 for bound in metric.interval)
        rest = f"allowed: {metric.tolerance:+.0%}, {metric.blocks} blocks, {metric.mode}"
        return f"`{metric.metric}` {metric.ratio - 1:+.1%} [{low:+.1%}, {high:+.1%}] ({rest})"
    if isinstance(metric.base, int) and isinstance(metric.head, int):
        accepted = f" (accepted: {metric.accepted})" if metric.accepted else ""
        return f"`{metric.metric}` {metric.base:,} -> {metric.head:,} a step{accepted}"
    return f"`{metric.metric}` is another"


def _location(metric: Metric) -> Location | None:
    place = _PLACE.fullmatch(metric.where)
    if place is None:
        return None
    return Location(place["file"], int(place["line"]), place["function"] or "", metric.source)
