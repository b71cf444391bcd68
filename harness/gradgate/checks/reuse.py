"""Results of checks that need not run again: they passed, and nothing that they read has changed since.

Only what is known to be safe is kept. A check that measures time or memory, one that opened a connection, or started
a process where the subject is not declared `hermetic`, and one that said anything beside *passed* runs again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import gradgate
from gradgate.checks.catalogue import Check
from gradgate.core.origin import is_own_code
from gradgate.core.reads import PROCESSES, Reads
from gradgate.core.verdict import Result
from gradgate.subjects.contract import Context, Subject

REASON = "as before: nothing that it read has changed"
_MEASURING = "78"  # families
_PREFIXES = ("CUBLAS", "CUDA", "GLOO", "GRADGATE", "HF_", "MKL", "NCCL", "OMP", "PYTHON", "PYTORCH", "TORCH")
_SYSTEM = ("/proc/", "/sys/", "/dev/")
_WRITTEN = {"__pycache__", ".hypothesis"}  # by what runs, for itself


class Reuse:
    """Results of earlier runs, in a folder.

    Args:
        folder: where they are; made where it is missing.
        reads: what this process reads; made before the subject was imported.
        target: what tells subjects apart that have one name.
    """

    def __init__(self, folder: Path, reads: Reads, target: str) -> None:
        self._folder, self._reads, self._target = folder, reads, target
        self._environment = environment()
        self._process, self._outside = os.getpid(), frozenset(reads.outside)

    def begin(self) -> None:
        """Called in the process that checks run in, which was forked from this one: forking it tells nothing."""
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._reads.outside.clear()
            self._reads.outside.update(self._outside)

    def known(self, subject: Subject, check: Check, stage: str | None, context: Context) -> Result | None:
        """The result of an earlier run that holds still."""
        try:
            kept = json.loads(self._file(subject, check, stage, context).read_text(encoding="utf-8"))
            if kept["environment"] != self._environment or not _is_as_it_was(kept["files"], kept["folders"]):
                return None
            return _result(kept["result"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, subject: Subject, check: Check, context: Context, result: Result) -> None:
        """Keep a result for later runs, where that is safe; what cannot be written is not kept."""
        outside = self._reads.outside - (set(PROCESSES) if subject.hermetic else set())
        unsafe = outside or check.solo or check.rule.code[2] in _MEASURING or context.device != "cpu"
        if unsafe or result.status != "passed" or result.findings:
            return
        read = [file for file in self._reads.files if not Path(file).is_relative_to(self._folder)]
        files = _own([*read, *_modules(), *_all_of(subject)], subject.source)
        if any(_changed(file) > self._reads.since for file in files):  # by the run, or beside it
            return
        kept = {
            "environment": self._environment,
            "files": {file: _digest(file) for file in files},
            "folders": {folder: _names(folder) for folder in _own(self._reads.folders, subject.source)},
            "result": asdict(replace(result, reason=REASON, seconds=0.0)),
        }
        file = self._file(subject, check, result.stage, context)
        with suppress(OSError, TypeError, ValueError):
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = file.with_suffix(f".{os.getpid()}")
            whole.write_text(json.dumps(kept), encoding="utf-8")
            whole.replace(file)

    def _file(self, subject: Subject, check: Check, stage: str | None, context: Context) -> Path:
        """One a check of a subject, whatever it was run on: the next run takes the place of the last."""
        words = [self._target, str(Path.cwd()), subject.name, stage or "", context.profile, str(context.seed)]
        return self._folder / f"{check.rule.code}-{_hashed(words)[:20]}.json"


@cache
def environment() -> str:
    """A digest of what a result depends on beside files: interpreter, machine, packages, settings, and this library."""
    here = Path(next(iter(gradgate.__path__)))
    packages = sorted({f"{found.name}=={found.version}" for found in distributions()})
    settings = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(_PREFIXES) and name != "GRADGATE_CACHE"
    )
    own = [f"{file.relative_to(here)} {_digest(str(file))}" for file in sorted(here.rglob("*.py"))]
    return _hashed([sys.version, *os.uname(), str(os.cpu_count()), *packages, *settings, *own])


def _is_as_it_was(files: Mapping[str, str], folders: Mapping[str, str]) -> bool:
    return all(_digest(file) == then for file, then in files.items()) and all(
        _names(folder) == then for folder, then in folders.items()
    )


def _own(paths: Iterable[str], source: Path | None) -> list[str]:
    """Those that are still there and belong neither to an installed package nor to the system; compiled code has its
    source among the modules."""
    return sorted(
        path
        for path in set(paths)
        if not path.startswith(_SYSTEM)
        and not _WRITTEN & {*Path(path).parts}
        and is_own_code(path, source)
        and Path(path).exists()
    )


def _all_of(subject: Subject) -> list[str]:
    """The whole source, of which any part may run in a process of its own."""
    return [str(file) for file in subject.source.resolve().rglob("*") if file.is_file()] if subject.source else []


def _modules() -> list[str]:
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return [os.path.abspath(file) for file in files if isinstance(file, str)]  # noqa: PTH100 - links stay links


@cache
def _digest(file: str) -> str:
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - thousands of them
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _changed(file: str) -> float:
    try:
        return Path(file).stat().st_mtime
    except OSError:
        return float("inf")


def _names(folder: str) -> str:
    try:
        return _hashed(sorted(name for name in os.listdir(folder) if name not in _WRITTEN))  # noqa: PTH208
    except OSError:
        return ""


def _hashed(words: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _result(kept: Mapping[str, Any]) -> Result:
    series = {
        name: {line: [(x, y) for x, y in points] for line, points in lines.items()}
        for name, lines in kept["series"].items()
    }
    return Result(**{**kept, "findings": (), "series": series})
