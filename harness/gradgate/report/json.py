"""The JSON form of a report, and writing a file so that it is whole or not there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding
from gradgate.core.verdict import Result, Verdict
from gradgate.report.excerpts import WITH_EXCERPT, excerpts
from gradgate.report.model import build, plain


def to_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a tree of strict JSON.

    Args:
        verdict: what `check_trainer` returned.

    Returns:
        `schema_version, verdict, subject, environment, results`, and `interrupted`, `not_run` and `source` beside them.
    """
    report, room = build(verdict), iter(range(WITH_EXCERPT))
    return {
        "schema_version": report.schema_version,
        "verdict": report.verdict,
        "subject": report.subject,
        "environment": plain(report.environment),
        "interrupted": report.interrupted,
        "not_run": plain(report.not_run),
        "results": [_result(result, room) for result in report.results],
        "source": [plain(entry) | {"finding": _finding(entry.finding, room)} for entry in report.source],
    }


def _result(result: Result, room: Iterator[int]) -> dict[str, Any]:
    return {**plain(result), "findings": [_finding(finding, room) for finding in result.findings]}


def _finding(finding: Finding, room: Iterator[int]) -> dict[str, Any]:
    """A finding with the lines around its places, as long as there is room."""
    return {**plain(finding), "excerpt": excerpts(finding) if next(room, None) is not None else []}


def dumps(verdict: Verdict) -> str:
    """The text of the JSON file: the same verdict gives the same bytes."""
    return _text(to_json(verdict))


def dumps_findings(findings: Sequence[Finding], code: int) -> str:
    """The text of `blame --json`: findings, worst first, and the exit code."""
    tree = {"schema_version": 1, "findings": [plain(finding) for finding in findings], "exit": code}
    return _text(tree)


def _text(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def write_whole(file: Path, text: str) -> None:
    """Write a file by way of a temporary one beside it, so that a reader never sees half of it.

    Args:
        file: where to; folders on the way are made. A device or pipe is written directly.
        text: what.

    Raises:
        GradgateError: it cannot be written; what was there before is still there.
    """
    target = file.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
        else:
            _replace(target, text)
    except OSError as error:
        raise GradgateError(f"cannot write {file}: {error.strerror or error}") from error


def require_writable(file: Path) -> None:
    """Find out early that a file cannot be written.

    Args:
        file: where something is to be written later; folders on the way are made.

    Raises:
        GradgateError: it is a folder, or its folder cannot be made or written to.
    """
    if file.is_dir():
        raise GradgateError(f"cannot write {file}: it is a folder")
    try:
        file.resolve().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GradgateError(f"cannot write {file}: {error.strerror or error}") from error
    writable = file if file.exists() else file.resolve().parent
    if not os.access(writable, os.W_OK):
        raise GradgateError(f"cannot write {file}: no permission")


def _replace(target: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)  # mkstemp makes files that only the owner reads; a report is like any other file
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
