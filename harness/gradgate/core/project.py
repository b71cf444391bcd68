"""Project: what the nearest pyproject.toml says under [tool.gradgate]."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradgate.core.errors import GradgateError, nearest

_ENTRIES = {"expected": "code = reason", "accept": "metric = reason"}
KEYS = ("target", "expected", "faults", "accept", "scan", "baselines")
BASELINES = "reports/baselines"
SCAN_KEYS = ("paths", "select", "ignore", "exclude", "baseline")


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """What [tool.gradgate.scan] says.

    Args:
        paths: what `gradgate scan` without PATHS scans; relative to the pyproject.toml.
        select: codes, prefixes or names of rules; empty: all.
        ignore: what to leave out of it.
        exclude: patterns of files and folders whose findings do not count, relative to the pyproject.toml.
        baseline: the file of findings that are allowed.
    """

    paths: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    baseline: str | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """The settings of one project.

    Args:
        file: the pyproject.toml; None where there is none.
        target: `package.module:factory` that `gradgate verify` drives without TARGET.
        expected: code -> reason of checks that are known to fail.
        faults: the folder of the fault catalogue.
        accept: metric -> reason of growths against base that are meant.
        scan: the settings of `gradgate scan`.
        baselines: the folder of stored baselines; `reports/baselines` beside the pyproject.toml where it does not say.
    """

    file: Path | None = None
    target: str | None = None
    expected: Mapping[str, str] = field(default_factory=dict)
    faults: str | None = None
    accept: Mapping[str, str] = field(default_factory=dict)
    scan: ScanSettings = field(default_factory=ScanSettings)
    baselines: Path | None = None


def find_project(start: Path) -> Project:
    """Read the nearest pyproject.toml.

    Args:
        start: the folder in which to begin; its parents follow.

    Returns:
        Its settings; empty ones where no folder above has a pyproject.toml, or it does not speak of gradgate.

    Raises:
        GradgateError: the file cannot be read, or a setting is unknown or of the wrong type.
    """
    folder = start.resolve()
    for parent in (folder, *folder.parents):
        if (parent / "pyproject.toml").is_file():
            return _read(parent / "pyproject.toml")
    return Project()


def _read(file: Path) -> Project:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("gradgate", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GradgateError(f"{file}: cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise GradgateError(f"{file}: [tool.gradgate] must be a table")
    for key in table:
        if key not in KEYS:
            raise GradgateError(f"{file}: [tool.gradgate] has no key {key!r}{nearest(key, KEYS)}")
    return Project(
        file,
        _text(file, table, "target"),
        _reasons(file, table, "expected"),
        _text(file, table, "faults"),
        _reasons(file, table, "accept"),
        _scan(file, table),
        file.parent / (_text(file, table, "baselines") or BASELINES),
    )


def _text(file: Path, table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is None or (isinstance(value, str) and value):
        return value
    raise GradgateError(f"{file}: [tool.gradgate] {key} must be a non-empty string, got {value!r}")


def _reasons(file: Path, table: Mapping[str, Any], key: str) -> dict[str, str]:
    entries = table.get(key, {})
    if not isinstance(entries, dict):
        raise GradgateError(f"{file}: [tool.gradgate.{key}] must be a table of {_ENTRIES[key]}, got {entries!r}")
    for name, reason in entries.items():
        if not isinstance(reason, str) or not reason.strip():
            raise GradgateError(f"{file}: [tool.gradgate.{key}] {name} needs a reason, a non-empty string")
    return entries


def _scan(file: Path, table: Mapping[str, Any]) -> ScanSettings:
    entries = table.get("scan", {})
    if not isinstance(entries, dict):
        raise GradgateError(f"{file}: [tool.gradgate.scan] must be a table, got {entries!r}")
    for key in entries:
        if key not in SCAN_KEYS:
            raise GradgateError(f"{file}: [tool.gradgate.scan] has no key {key!r}{nearest(key, SCAN_KEYS)}")
    lists = {key: _words(file, entries, key) for key in ("paths", "select", "ignore", "exclude")}
    return ScanSettings(**lists, baseline=_text(file, entries, "baseline"))


def _words(file: Path, entries: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = entries.get(key, [])
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise GradgateError(f"{file}: [tool.gradgate.scan] {key} must be a list of non-empty strings, got {value!r}")
    return tuple(value)
