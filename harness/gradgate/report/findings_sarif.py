"""Findings of the scanner as SARIF 2.1.0, for code scanning services."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradgate.core.finding import Finding, Location

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "note": "note"}


def to_sarif(
    findings: Sequence[Finding], prints: Sequence[str], problems: Mapping[str, str], version: str, root: Path
) -> str:
    """A SARIF log with one run.

    Args:
        findings: in order.
        prints: the fingerprint of each.
        problems: file -> why it could not be scanned; they become notifications.
        version: gradgate's.
        root: files below it are named relative to it.
    """
    codes = sorted({finding.code: finding for finding in findings}.items())
    index = {code: at for at, (code, _) in enumerate(codes)}
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "gradgate",
                "semanticVersion": version,
                "rules": [_rule(finding) for _, finding in codes],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [
            _result(finding, mark, index[finding.code], root) for finding, mark in zip(findings, prints, strict=True)
        ],
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    _notification(file, message, root) for file, message in problems.items()
                ],
            }
        ],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _rule(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.code,
        "name": finding.name,
        "shortDescription": {"text": finding.name.replace("-", " ")},
        "help": {"text": f"gradgate rule {finding.code}"},
    }


def _result(finding: Finding, mark: str, index: int, root: Path) -> dict[str, Any]:
    text = (
        finding.message + (f". {finding.why}" if finding.why else "") + (f". Fix: {finding.fix}" if finding.fix else "")
    )
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": text},
        "partialFingerprints": {"gradgate/v1": mark},
    }
    if finding.culprit is not None:
        result["locations"] = [_location(finding.culprit, root)]
    if finding.victim is not None:
        result["relatedLocations"] = [
            {**_location(finding.victim, root), "id": 1, "message": {"text": "the line it concerns"}}
        ]
    return result


def _location(place: Location, root: Path) -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": place.line}
    if place.source:
        region["snippet"] = {"text": place.source}
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(place.file, root)}, "region": region}
    }
    if place.function:
        location["logicalLocations"] = [{"name": place.function, "kind": "function"}]
    return location


def _notification(file: str, message: str, root: Path) -> dict[str, Any]:
    place = {"physicalLocation": {"artifactLocation": {"uri": _uri(file, root)}}}
    return {"level": "warning", "message": {"text": f"{file}: {message}"}, "locations": [place]}


def _uri(file: str, root: Path) -> str:
    path = Path(file)
    if path.is_absolute():
        if not path.is_relative_to(root):
            return path.as_uri()
        path = path.relative_to(root)
    return quote(path.as_posix())
