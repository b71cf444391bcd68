"""The report as one HTML file: a view of the inputs, then the template. Pure: the same inputs give the same bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gradgate import __version__
from gradgate.core.errors import GradgateError
from gradgate.core.rule import FAMILIES
from gradgate.core.verdict import STATUSES
from gradgate.report import figures
from gradgate.report.differences import Differences
from gradgate.report.figures import number
from gradgate.report.inputs import Inputs
from gradgate.report.records import Changed, CoveredFile, Diff, Finding, History, Kill, Metric, Result, Run
from gradgate.report.text import codes_in_short, number_lines

ASSETS = Path(__file__).with_name("assets")
OURS = '<meta name="generator" content="gradgate'  # what tells our file from somebody's
IN_FULL, IN_SHORT = 150, 2000  # findings as cards, then as rows; the rest is counted
MOST_FILES, MOST_CHANGES = 100, 50
VERDICTS = {
    "passed": "Everything that ran holds.",
    "failed": "At least one check failed.",
    "inconclusive": "Nothing failed, but not all is decided.",
    "error": "The harness broke, not the trainer.",
}
MEMORY = ("live_peak_bytes", "saved_bytes", "total_bytes", "device_peak_bytes", "leak")
_OPTIONAL = (
    "counts", "severities", "reasons", "not_built", "not_run", "families", "missed", "more", "left", "slowest",
    "seconds", "weights", "flow", "convergence", "alive", "speed", "counters", "memory", "files", "kill_head",
    "kill_rows", "diff_files", "history", "changes",
)  # fmt: skip
_RANK = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Missed:
    """A check that found something, or could not say: shown in full."""

    result: Result
    findings: tuple[Finding, ...]
    numbers: tuple[str, ...]


def render(inputs: Inputs, coverage_link: str = "", flame_graphs: Sequence[str] = ()) -> str:
    """The page.

    Args:
        inputs: what there is; each section whose input is missing says so.
        coverage_link: where coverage.py's own HTML lies, relative to the page.
        flame_graphs: where memray's lie, relative to the page.
    """
    run = inputs.run
    view: dict[str, Any] = dict.fromkeys(_OPTIONAL)
    view |= {"inputs": inputs, "run": run, "coverage_link": coverage_link, "flame_graphs": flame_graphs}
    if run is not None:
        view |= _catalogue(run)
        view |= {"weights": figures.weights(run), "flow": figures.flow(run)}
        view |= {"convergence": figures.convergence(run), "alive": figures.memory(run)}
    if inputs.compare is not None:
        metrics = inputs.compare.metrics
        view |= {"speed": figures.speed(metrics), "counters": [metric for metric in metrics if metric.ratio is None]}
        view |= {"memory": [_memory_row(metric) for metric in metrics if metric.metric in MEMORY]}
    if inputs.coverage is not None:
        view |= {"files": _least_covered(inputs.coverage.files)}
    if inputs.diff is not None:
        view |= {"diff_files": _uncovered(inputs.diff)}
    if inputs.history is not None:
        view |= {"history": figures.history(inputs.history), "changes": _changes(inputs.history)}
    if inputs.faults is not None:
        view |= _kills(inputs.faults.outcomes)
    return str(_template("report.html.j2").render(**view, **_shell()))


def render_differences(found: Differences) -> str:
    """Two runs side by side as a page of its own."""
    return str(_template("differences.html.j2").render(found=found, **_shell()))


@cache
def _environment() -> Any:
    try:
        import matplotlib  # noqa: F401, ICN001 - asked for here, so that one message names both
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise GradgateError(f"the HTML report needs {error.name}: pip install 'gradgate[report]'") from error
    found = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"spoken": _spoken, "number": number, "quantity": _quantity, "change": _change}
    return found


def _template(name: str) -> Any:
    return _environment().get_template(name)


def _shell() -> dict[str, Any]:
    """What every page has: styles, the script and its hash, which lets the browser run no other."""
    from markupsafe import Markup

    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "style": Markup(style),  # noqa: S704 - our own file
        "script": Markup(script),  # noqa: S704 - our own file
        "script_hash": digest,
        "version": __version__,
        "svg": Markup,  # of matplotlib, which escapes the labels
        "verdicts": VERDICTS,
    }


def _catalogue(run: Run) -> dict[str, Any]:
    reasons: dict[str, list[str]] = {}
    for result in run.results:
        if result.status == "not_applicable":
            reasons.setdefault(result.reason, []).append(result.code + (f" ({result.stage})" if result.stage else ""))
    built = [result for result in run.results if result.status != "not_built"]
    families = {title: [each for each in built if each.code[2] == digit] for digit, title in FAMILIES.items()}
    missed, rows, left = _missed(built)
    return {
        "counts": {status: sum(result.status == status for result in run.results) for status in STATUSES},
        "reasons": reasons,
        "not_built": [result.code for result in run.results if result.status == "not_built"],
        "not_run": codes_in_short(run.not_run) if all(_is_code(code) for code in run.not_run) else run.not_run,
        "families": {title: group for title, group in families.items() if group},
        "missed": missed,
        "more": rows,
        "left": left,
        "severities": {name: sum(f.severity == name for r in built for f in r.findings) for name in _RANK},
        "slowest": [
            (f"{each.code} {each.name}", each.stage or "", f"{each.seconds:.1f}")
            for each in sorted(built, key=lambda result: -result.seconds)[:10]
        ],
        "seconds": sum(result.seconds for result in built),
    }


def _is_code(text: str) -> bool:
    return len(text) == 5 and text.startswith("GG") and text[2:].isdigit()


def _missed(results: Sequence[Result]) -> tuple[list[Missed], list[Finding], int]:
    """Results worth reading, worst first; the findings beyond `IN_FULL` as rows, and how many are only counted."""
    order = {"failed": 0, "error": 1, "inconclusive": 2, "expected": 3, "passed": 4}
    worth = [each for each in results if each.status in order and (each.status != "passed" or each.findings)]
    worth.sort(key=lambda each: order[each.status])
    shown: list[Missed] = []
    rest: list[Finding] = []
    room = IN_FULL
    for result in worth:
        findings = sorted(result.findings, key=lambda finding: _RANK[finding.severity])
        shown.append(Missed(result, tuple(findings[:room]), tuple(number_lines(result.measured, result.allowed))))
        rest += findings[room:]
        room = max(0, room - len(findings))
    return shown, rest[:IN_SHORT], len(rest[IN_SHORT:])


def _least_covered(files: Mapping[str, CoveredFile]) -> list[tuple[str, float, str]]:
    """The twenty files with most missing lines: name, percent, the lines in ranges."""
    worst = sorted(files.items(), key=lambda item: (-len(item[1].missing_lines), item[0]))[:20]
    return [
        (name, float(file.summary.get("percent_covered", 0.0)), _ranges(file.missing_lines))
        for name, file in worst
        if file.missing_lines
    ]


def _uncovered(diff: Diff) -> list[tuple[str, float, str]]:
    """Files of the diff with lines that no test ran, most of them first."""
    worst = sorted(diff.src_stats.items(), key=lambda item: (-len(item[1].violation_lines), item[0]))
    return [
        (name, file.percent_covered, _ranges(file.violation_lines)) for name, file in worst if file.violation_lines
    ][:MOST_FILES]


def _changes(found: History) -> list[tuple[str, ...]]:
    """Rows of the changes, the newest first."""
    return [
        (f"{one.subject} {one.number}", one.time, f"{one.last[:10]}..{one.commit[:10]}" if one.commit else "",
         number(one.before), number(one.after), _ratio(one), f"{one.entries[0]} / {one.entries[1]}")
        for one in reversed(found.changes[-MOST_CHANGES:])
    ]  # fmt: skip


def _ratio(one: Changed) -> str:
    if isinstance(one.before, str) or isinstance(one.after, str) or not one.before:
        return ""
    return f"{one.after / one.before - 1:+.1%}"


def _kills(outcomes: Sequence[Kill]) -> dict[str, Any]:
    """Outcomes by class and status."""
    statuses = sorted({outcome.status for outcome in outcomes}, key=lambda status: (status != "killed", status))
    classes = sorted({outcome.id.split("-")[0] for outcome in outcomes})
    rows = [
        (name, *_by_status([each for each in outcomes if each.id.split("-")[0] == name], statuses)) for name in classes
    ]
    return {
        "kill_head": ("class", *(_spoken(status) for status in statuses)),
        "kill_rows": [*rows, ("all", *_by_status(outcomes, statuses))],
    }


def _by_status(outcomes: Sequence[Kill], statuses: Sequence[str]) -> list[str]:
    return [str(sum(outcome.status == status for outcome in outcomes)) for status in statuses]


def _memory_row(metric: Metric) -> tuple[str, ...]:
    return (metric.metric, number(metric.base), number(metric.head), _change(metric))


def _ranges(lines: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for line in sorted(lines):
        if runs and runs[-1][1] == line - 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    shown = ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs[:30])
    return shown + (f" and {len(runs) - 30} more" if len(runs) > 30 else "")


def _spoken(status: str) -> str:
    return status.replace("_", " ")


def _quantity(value: Any) -> str:
    """Any value of an environment or a measurement in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_quantity(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_quantity(item) for item in value)
    return number(value)


def _change(metric: Metric) -> str:
    if isinstance(metric.base, int | float) and isinstance(metric.head, int | float):
        return f"{metric.head - metric.base:+,}"
    return "" if metric.base == metric.head else "differs"
