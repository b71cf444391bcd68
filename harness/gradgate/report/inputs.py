"""Inputs: the JSON files that a report is built from, read and refused with one clear error each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gradgate.core.errors import GradgateError
from gradgate.report.inert import inert
from gradgate.report.places import brought_near
from gradgate.report.records import Comparison, Coverage, Diff, History, Kills, Mutation, Record, Run, Scan

SCHEMA_VERSION = 1
COMMANDS = {
    "verify": "gradgate verify --json FILE",
    "compare": "gradgate compare ... --json FILE",
    "faults": "gradgate faults run --json FILE",
    "mutation": "make mutants",
    "coverage": "coverage json -o FILE",
    "diff": "diff-cover coverage.xml --compare-branch REF --format json:FILE",
    "history": "gradgate baseline show --json FILE",
    "scan": "gradgate scan PATHS --format json",
}
MARKS = {
    "verify": "results", "compare": "metrics", "faults": "outcomes", "coverage": "totals", "diff": "src_stats",
    "history": "history", "scan": "problems", "mutation": "survivors",
}  # fmt: skip
FOREIGN = ("coverage", "diff")  # whose files have no schema version of ours
KINDS: Mapping[str, type[Record]] = {
    "verify": Run, "compare": Comparison, "faults": Kills, "coverage": Coverage, "diff": Diff, "history": History,
    "scan": Scan, "mutation": Mutation,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that one report shows. What was not given is None.

    Args:
        run: the catalogue's results.
        compare: base against head.
        faults: the kill matrix.
        mutation: of the harness's own tests.
        coverage: of the tests.
        diff: coverage of the diff.
        history: of this class of machine.
        scan: the scanner's findings.
        names: kind -> the file that it was read from, without its folder.
    """

    run: Run | None = None
    compare: Comparison | None = None
    faults: Kills | None = None
    mutation: Mutation | None = None
    coverage: Coverage | None = None
    diff: Diff | None = None
    history: History | None = None
    scan: Scan | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def read_all(paths: Sequence[Path]) -> Inputs:
    """Read files and folders of results.

    Args:
        paths: JSON files, and folders whose JSON files are taken where they are results.

    Returns:
        One record a kind.

    Raises:
        GradgateError: there is nothing to read, a file is no result, or two are of one kind.
    """
    found: dict[str, tuple[Path, Any]] = {}
    for path in _files(paths):
        kind, record = read(path)
        if kind in found and found[kind][0].resolve() != path.resolve():
            raise _twice(kind, found[kind], (path, record))
        found[kind] = (path, record)
    _require_one_subject(found)
    records = {kind if kind != "verify" else "run": record for kind, (_, record) in found.items()}
    return Inputs(**records, names={kind: path.name for kind, (path, _) in found.items()})


def read_run(path: Path) -> Run:
    """Read the result of one `gradgate verify`.

    Raises:
        GradgateError: it is something else.
    """
    kind, record = read(path)
    if kind != "verify":
        raise GradgateError(f"{path}: the result of `{COMMANDS[kind]}`; expected one of `{COMMANDS['verify']}`")
    return record  # type: ignore[no-any-return]


def read(path: Path) -> tuple[str, Any]:
    """Read one file: its kind, and its record with every text made inert.

    Raises:
        GradgateError: it cannot be read, is no JSON, no result, or of another version.
    """
    tree = _tree(path)
    kind = next((kind for kind, mark in MARKS.items() if mark in tree), None)
    if kind is None:
        known = "; ".join(COMMANDS.values())
        raise GradgateError(f"{path}: no result that a report can be built from; expected the output of: {known}")
    version = tree.get("schema_version")
    if kind not in FOREIGN and version != SCHEMA_VERSION:
        age = "older" if version is None or (isinstance(version, int) and version < SCHEMA_VERSION) else "newer"
        shown = "none" if version is None else repr(version)
        raise GradgateError(
            f"{path}: schema_version {shown} is {age} than what this version reads ({SCHEMA_VERSION}); "
            f"write it again with `{COMMANDS[kind]}`"
        )
    try:
        return kind, KINDS[kind].model_validate(brought_near(inert(tree)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GradgateError(f"{path}: {where}: {first['msg'].lower()}, got {str(first['input'])[:60]!r}") from error


def _files(paths: Sequence[Path]) -> Iterable[Path]:
    if not paths:
        raise GradgateError(f"nothing to build a report from: name a file that `{COMMANDS['verify']}` wrote")
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        mine = [file for file in sorted(path.glob("*.json")) if _is_ours(file)]
        if not mine:
            raise GradgateError(f"{path}: no results of gradgate in this folder; write one with `{COMMANDS['verify']}`")
        yield from mine


def _is_ours(file: Path) -> bool:
    """Whether a file in a folder is meant: one that looks like a result and is broken is still meant."""
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(tree, dict) and any(mark in tree for mark in MARKS.values())


def _tree(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GradgateError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data.strip():
        raise GradgateError(f"{path}: is empty; write it again with `{COMMANDS['verify']}`")
    try:
        tree = json.loads(data)
    except RecursionError as error:
        raise GradgateError(f"{path}: is nested too deeply to be a result") from error
    except UnicodeDecodeError as error:
        raise GradgateError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        cut = " (was it cut off?)" if error.pos >= len(data.decode("utf-8").rstrip()) - 1 else ""
        raise GradgateError(f"{path}:{error.lineno}: is not JSON: {error.msg}{cut}") from error
    if not isinstance(tree, dict):
        raise GradgateError(f"{path}: expected a JSON object, got {type(tree).__name__}")
    return tree


def _twice(kind: str, first: tuple[Path, Any], second: tuple[Path, Any]) -> GradgateError:
    if kind == "verify" and first[1].subject != second[1].subject:
        return _mixed(first[0], first[1].subject, second[0], second[1].subject)
    hint = "; two runs are put side by side by `gradgate report compare`" if kind == "verify" else ""
    return GradgateError(f"{first[0]} and {second[0]} are both results of `{COMMANDS[kind]}`: give one{hint}")


def _mixed(first: Path, one: str, second: Path, other: str) -> GradgateError:
    return GradgateError(
        f"results of two subjects: {first} is of {one!r}, {second} of {other!r}; build one report for each"
    )


def _require_one_subject(found: Mapping[str, tuple[Path, Any]]) -> None:
    """A comparison names its subject where it drove one: `module:factory` or the subject's own name."""
    if "verify" not in found or "compare" not in found:
        return
    path, run = found["verify"]
    other, compared = found["compare"]
    named = compared.environment.get("subject")
    if named is not None and named != run.subject:
        raise _mixed(path, run.subject, other, str(named))
