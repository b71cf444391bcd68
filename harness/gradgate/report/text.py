"""The text form of a report: rich renderables for a terminal, plain text for a file. Pure functions of the model."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradgate.core.finding import Finding
from gradgate.core.verdict import MARKS, Result
from gradgate.report.model import Report

WIDTH = 80
STYLES = {
    "passed": "green",
    "failed": "bold red",
    "expected": "yellow",
    "not_applicable": "dim",
    "not_built": "dim",
    "inconclusive": "bold yellow",
    "error": "bold magenta",
}
VERDICTS = {
    "passed": "passed: everything that ran holds",
    "failed": "failed",
    "inconclusive": "inconclusive: nothing failed, but not all is decided",
    "error": "error: the harness broke, not the trainer",
}
SHOWN = 3  # findings of one result that a terminal shows in full
LISTED = 20  # of those behind them that it names; JSON has them all


def render(report: Report, *, wrap: bool = True) -> Group:
    """A report for a terminal.

    Args:
        report: what to show.
        wrap: whether findings are broken at the width, as a terminal wants; a log rather keeps each line whole.

    Returns:
        A table by family, what did not run and why, what failed in full, and the summary.
    """
    parts: list[RenderableType] = []
    if report.families:
        parts.append(_table(report))
    parts += _idle(report)
    for result in report.having("passed", "expected", "inconclusive", "error", "failed"):
        if result.status != "passed" or result.findings:  # a check that passed may have warned
            parts += [Text(), *_detail(result, wrap)]
    parts += _source(report, wrap)
    return Group(*parts, Text(), *_summary(report))


def to_text(report: Report, width: int = WIDTH) -> str:
    """A report as plain text, tables no wider than `width`, findings unbroken."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        console.print(render(report, wrap=False), crop=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def result_lines(result: Result, again: str, most: int | None = None) -> list[str]:
    """A result in full: its findings or its reason, the numbers, and how to see it again.

    Args:
        result: what to tell.
        again: the command that repeats it.
        most: findings to tell in full, those behind them in a line each, up to `LISTED`; None: all in full.

    Returns:
        Lines; the first stands alone.
    """
    if result.status == "expected":
        lines = [f"{result.code} {result.name}: fails as expected: {result.reason}"]
    elif result.findings:
        lines = [line for finding in result.findings[:most] for line in finding.lines()]
        others = result.findings[most:] if most else ()
        lines += [f"  also:  {_in_a_line(finding)}" for finding in others[:LISTED]]
        left = len(others) - LISTED
        lines += [f"  and {left} more; --json has them all"] if left > 0 else []
    else:
        lines = f"{result.code} {result.name}: {result.status}: {result.reason}".splitlines()
    numbers = "; ".join(number_lines(result.measured, result.allowed))
    rows = (("stage", result.stage), ("seen", numbers), ("again", again))
    return lines + [f"  {label + ':':<7}{text}" for label, text in rows if text]


def _in_a_line(finding: Finding) -> str:
    """What a finding says, and where."""
    place = finding.culprit or finding.victim
    return finding.message + (f" ({Path(place.file).name}:{place.line})" if place is not None else "")


def number_lines(measured: Mapping[str, Any], allowed: Mapping[str, Any]) -> list[str]:
    """`weight_sum_error 0.03 (allowed 1e-06)`, one a measured number, then bounds without a measurement."""
    lines = [f"{name} {_short(value)}{_bound(allowed, name)}" for name, value in measured.items()]
    return lines + [f"{name} allowed {_short(value)}" for name, value in allowed.items() if name not in measured]


def codes_in_short(codes: Sequence[str]) -> str:
    """`GG101-GG107, GG201`: neighbours in a row become a range."""
    runs: list[list[int]] = []
    for number in sorted(int(code[2:]) for code in codes):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ends = ((f"GG{run[0]:03}", f"GG{run[-1]:03}", len(run)) for run in runs)
    return ", ".join(
        first if many == 1 else f"{first}-{last}" if many > 2 else f"{first}, {last}" for first, last, many in ends
    )


def _table(report: Report) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", max_width=16)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    for title, results in report.families.items():
        if table.row_count:
            table.add_row()
        table.add_row(Text(f"GG{results[0].code[2]}", style="bold"), Text(title, style="bold"))
        for result in results:
            status = Text(result.status.replace("_", " "), style=STYLES[result.status])
            table.add_row(result.code, result.name, result.stage or "", status, f"{result.seconds:.1f} s")
    return table


def _idle(report: Report) -> Iterator[RenderableType]:
    """What did not run, one line a reason."""
    reasons: dict[str, list[str]] = {}
    for result in report.having("not_applicable"):
        reasons.setdefault(result.reason, []).append(result.code + (f" ({result.stage})" if result.stage else ""))
    if reasons:
        yield Text("\nnot applicable; to enable:")
    for reason, codes in reasons.items():
        yield _hanging(f"{', '.join(codes)}: {reason}", 2)
    if report.not_built:
        yield Text()
        yield _hanging(f"not built yet ({len(report.not_built)}): {codes_in_short(report.not_built)}", 0)
    if report.not_run:
        why = "interrupted" if report.interrupted else "stopped at the first failure"
        yield Text()
        yield _hanging(f"not run, {why} ({len(report.not_run)}): {codes_in_short(report.not_run)}", 0)


def _detail(result: Result, wrap: bool) -> Iterator[RenderableType]:
    """A result that is not plainly passed, in rich form."""
    for index, line in enumerate(result_lines(result, result.reproduce, SHOWN)):
        style = STYLES[result.status] if index == 0 else ""
        yield _wrapped(line, style) if wrap else Text(line, style=style, no_wrap=True, overflow="ignore")


def _source(report: Report, wrap: bool) -> Iterator[RenderableType]:
    """What the scanner found in the source, the confirmed first."""
    if not report.source:
        return
    counts = [(mark, sum(entry.mark == mark for entry in report.source)) for mark in MARKS]
    told = ", ".join(f"{count} {mark.replace('_', ' ')}" for mark, count in counts if count)
    yield Text(f"\nin the source: {told}")
    for entry in sorted(report.source, key=lambda entry: MARKS.index(entry.mark)):
        first = f"{entry.mark.replace('_', ' ')}: {entry.finding.headline()}"
        rows = (("where", f"{entry.finding.culprit}"), ("run", entry.reason))
        style = "bold red" if entry.mark == "confirmed" else ""
        for line, look in ((first, style), *((f"  {label + ':':<7}{text}", "") for label, text in rows)):
            yield _wrapped(line, look) if wrap else Text(line, style=look, no_wrap=True, overflow="ignore")


def _summary(report: Report) -> Iterator[RenderableType]:
    environment = report.environment
    where = ", ".join(
        f"{key} {environment[key]}" for key in ("torch", "device", "profile", "seed") if key in environment
    )
    yield _hanging(f"subject: {report.subject} ({where})" if where else f"subject: {report.subject}", 0)
    counts = [f"{count} {status.replace('_', ' ')}" for status, count in report.counts.items()]
    yield _hanging(f"results: {', '.join(counts)}; {report.seconds:.1f} s", 0)
    interrupted = " (interrupted)" if report.interrupted else ""
    yield Text(f"verdict: {VERDICTS[report.verdict]}{interrupted}", style=STYLES[report.verdict])


def _hanging(line: str, indent: int) -> RenderableType:
    return Padding(Text(line), (0, 0, 0, indent))


def _wrapped(line: str, style: str) -> RenderableType:
    """A line whose continuation begins where its text does, behind `  why:   `."""
    label, text = (line[:9], line[9:]) if line.startswith("  ") else ("", line)
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(label, Text(text, style=style))
    return grid


def _bound(allowed: Mapping[str, Any], name: str) -> str:
    return f" (allowed {_short(allowed[name])})" if name in allowed else ""


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return f"[{', '.join(_short(item) for item in value)}]"
    return str(value)
