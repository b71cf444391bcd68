"""Baselines: findings that old code is allowed, and fingerprints that survive lines moving."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding

SCHEMA_VERSION = 1


def fingerprints(findings: Sequence[Finding], root: Path) -> list[str]:
    """A mark of each finding that does not depend on line numbers.

    It is made of the rule, the file's name below `root`, the function and the two lines' text; equal ones are counted.
    """
    seen: Counter[str] = Counter()
    marks = []
    for finding in findings:
        parts = [finding.code]
        for place in (finding.culprit, finding.victim):
            parts += [_relative(place.file, root), place.function, " ".join(place.source.split())] if place else [""]
        key = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        seen[key] += 1
        marks.append(f"{key}:{seen[key]}")
    return marks


def _relative(file: str, root: Path) -> str:
    path = Path(file)
    resolved = path if path.is_absolute() else root / path
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else path.as_posix()


def read(file: Path) -> frozenset[str]:
    """The marks that a baseline holds.

    Raises:
        GradgateError: it cannot be read, or is not a baseline of this version.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        version, marks = stored["schema_version"], stored["findings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GradgateError(
            f"{file}: no baseline of gradgate scan ({error}); write one with --write-baseline"
        ) from error
    if version != SCHEMA_VERSION or not isinstance(marks, dict):
        raise GradgateError(
            f"{file}: a baseline of version {version}, expected {SCHEMA_VERSION}; write it anew with --write-baseline"
        )
    return frozenset(marks)


def write(file: Path, findings: Sequence[Finding], marks: Sequence[str], root: Path) -> None:
    """Write a baseline: mark -> what it stands for, so that its diffs can be read.

    Raises:
        GradgateError: the file cannot be written.
    """
    rows = {
        mark: f"{finding.code} {_relative(finding.culprit.file, root) if finding.culprit else ''}: {finding.message}"
        for finding, mark in zip(findings, marks, strict=True)
    }
    text = json.dumps(
        {"schema_version": SCHEMA_VERSION, "findings": dict(sorted(rows.items(), key=lambda row: (row[1], row[0])))},
        indent=1,
    )
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise GradgateError(f"{file}: the baseline cannot be written: {error.strerror}") from error
