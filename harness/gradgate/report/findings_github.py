"""Findings of the scanner as workflow commands, which GitHub shows in the diff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gradgate.core.finding import Finding
from gradgate.report.places import relative

_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def to_github(findings: Sequence[Finding], problems: Mapping[str, str], root: Path) -> str:
    """One `::error file=...,line=...::message` a finding; files that could not be scanned are warnings."""
    rows = []
    for finding in findings:
        place = finding.culprit
        where = f"file={_property(relative(place.file, root))},line={place.line}," if place else ""
        title = _property(f"{finding.code} {finding.name}")
        tried = finding.detail.get("repair", "")
        parts = (finding.message, tried, finding.why, f"fix: {finding.fix}" if finding.fix else "")
        text = "\n".join(part for part in parts if part)
        rows.append(f"::{_COMMANDS[finding.severity]} {where}title={title}::{_message(text)}")
    rows += [f"::warning file={_property(relative(file, root))}::{_message(text)}" for file, text in problems.items()]
    return "".join(row + "\n" for row in rows)


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
