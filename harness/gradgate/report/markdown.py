"""A verdict as Markdown for a pull request, and as the file of a badge. Texts of others stand in code spans."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from gradgate.core.finding import Finding
from gradgate.report.inert import inert
from gradgate.report.model import Report
from gradgate.report.places import relative
from gradgate.report.text import VERDICTS, codes_in_short

MOST = 50  # findings in the table
COLOURS = {"passed": "brightgreen", "failed": "red", "inconclusive": "yellow", "error": "purple"}
_SIGNS = {"passed": "✅", "failed": "❌", "inconclusive": "⚠️", "error": "💥"}
_LONGEST = 300


def to_markdown(report: Report, findings: Sequence[Finding], root: Path) -> str:
    """The summary: verdict, counts, findings by rank, and what did not run.

    Args:
        report: the run.
        findings: as `ranked` orders them.
        root: files are named relative to it.
    """
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in report.counts.items() if count)
    lines = [
        f"## {_SIGNS[report.verdict]} gradgate: {VERDICTS[report.verdict]}",
        "",
        f"{code(report.subject)}: {counts}.",
    ]
    if report.interrupted:
        lines.append("The run was **interrupted**.")
    if findings:
        lines += ["", "| severity | rule | what | where | fix |", "|---|---|---|---|---|"]
        lines += [_row(finding, root) for finding in findings[:MOST]]
    if len(findings) > MOST:
        lines += ["", f"{len(findings) - MOST} more are in the JSON."]
    for result in report.having("error", "inconclusive"):
        lines += ["", f"**{result.code} {result.status}**: {code(result.reason)}"]
    lines += ["", "<details><summary>What did not run</summary>", ""]
    for result in report.having("not_applicable"):
        lines.append(f"- {result.code}{' on ' + code(result.stage) if result.stage else ''}: {code(result.reason)}")
    if report.not_built:
        lines.append(f"- not built yet: {codes_in_short(report.not_built)}")
    if report.not_run:
        lines.append(f"- not reached: {codes_in_short(report.not_run)}")
    return "\n".join([*lines, "", "</details>"]) + "\n"


def to_badge(report: Report) -> str:
    """The file of a badge, in the form of shields.io's endpoints."""
    idle = sum(report.counts[name] for name in ("not_applicable", "not_built", "inconclusive")) + len(report.not_run)
    message = f"{report.verdict}: {report.counts['passed']} checks, {idle} did not run"
    tree = {"schemaVersion": 1, "label": "gradgate", "message": message, "color": COLOURS[report.verdict]}
    return json.dumps(tree, indent=2) + "\n"


def code(text: str) -> str:
    """A text as a code span of one line, in which Markdown, HTML and mentions are nothing but text."""
    flat = " ".join(inert(text[:_LONGEST]).split()).replace("|", "\\|") or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def _row(finding: Finding, root: Path) -> str:
    where = code(f"{relative(finding.culprit.file, root)}:{finding.culprit.line}") if finding.culprit else ""
    cells = (finding.severity, finding.code, code(finding.message), where, code(finding.fix) if finding.fix else "")
    return f"| {' | '.join(cells)} |"
