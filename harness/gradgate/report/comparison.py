"""A comparison as text; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradgate.core.comparison import Comparison, Metric

MEANING = {
    "pass": "no slower, no heavier",
    "improved": "less of something, more of nothing; re-record stored baselines",
    "changed": "other operations, but no counter has grown unaccepted and the time is the same",
    "fail": "a regression",
    "noisy": "the machine is too unsteady to say; nothing is blamed on the code",
    "incomparable": "the two sides do not do the same thing",
    "broken": "a side does not run",
}


def to_text(found: Comparison) -> str:
    """The report of `gradgate compare`: a line a metric, the lines to blame, the self-check, the verdict last."""
    lines = [f"{found.target}", f"  base  {found.base}", f"  head  {found.head}", ""]
    for metric in found.metrics:
        lines += _metric(metric)
    if found.self_check:
        lines += ["", _self_check(found.self_check)]
    if found.broken:
        lines.append("{side}, while {doing}: {error}".format(**found.broken))
    lines += [f"note: {note}" for note in found.notes]
    compared = any(metric.base is not None or metric.ratio is not None for metric in found.metrics)
    meaning = MEANING[found.verdict] if compared or found.verdict != "pass" else "nothing to compare with"
    lines += ["", f"verdict: {found.verdict}: {meaning} ({found.seconds:.1f} s)"]
    return "\n".join(lines) + "\n"


def _metric(metric: Metric) -> list[str]:
    lines = [f"{metric.metric:<18}{metric.verdict:<13}{_number(metric)}".rstrip()]
    if metric.where and metric.verdict != "pass":
        lines.append(f"    where: {metric.where}      {metric.source}".rstrip())
    if metric.reason:
        lines.append(f"    why:   {metric.reason}")
    if metric.accepted:
        lines.append(f"    accepted: {metric.accepted}")
    return lines


def _number(metric: Metric) -> str:
    if metric.ratio is not None and metric.interval is not None:
        low, high = metric.interval
        rest = f"tolerance {metric.tolerance:.0%}, {metric.blocks} blocks, {metric.mode}"
        again = f", processes: {', '.join(metric.processes)}" if len(metric.processes) > 1 else ""
        return f"{metric.ratio - 1:+.1%}  [{low - 1:+.1%}, {high - 1:+.1%}]  ({rest}{again})"
    if metric.base is None or metric.base == metric.head:
        return "" if metric.head is None else f"{metric.head}"
    if isinstance(metric.base, int) and isinstance(metric.head, int):
        return f"{metric.base} -> {metric.head} ({metric.head - metric.base:+d})"
    return f"{metric.base} -> {metric.head}"


def _self_check(check: Mapping[str, Any]) -> str:
    most = check["false_alarm_rate_interval"][1]
    pair = f"{check['ratio'] - 1:+.1%} ({check['verdict']})" if "ratio" in check else "not timed"
    return (
        f"self-check: identical code {pair}; false alarms of single processes "
        f"on this machine so far: {check['false_alarms']} of {check['pairs']} A/A pairs (95 %: at most {most:.1%})"
    )
