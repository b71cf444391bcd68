"""Findings of the scanner as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gradgate.core.finding import Finding
from gradgate.report.excerpts import WITH_EXCERPT, excerpts

SCHEMA_VERSION = 1


def to_json(
    findings: Sequence[Finding], prints: Sequence[str], problems: Mapping[str, str], counts: Mapping[str, Any]
) -> str:
    """The whole result as one object: `schema_version, findings, problems`, and the counts.

    Args:
        findings: in order.
        prints: the fingerprint of each.
        problems: file -> why it could not be scanned.
        counts: files, lines, suppressed and so on.
    """
    rows = [
        {**asdict(finding), "fingerprint": mark, "excerpt": excerpts(finding) if at < WITH_EXCERPT else []}
        for at, (finding, mark) in enumerate(zip(findings, prints, strict=True))
    ]
    problem_rows = [{"file": file, "message": message} for file, message in problems.items()]
    return json.dumps(
        {"schema_version": SCHEMA_VERSION, **counts, "findings": rows, "problems": problem_rows}, indent=1
    )
