"""Which faults a change can bear on: those in a file that it touches, and those for a check that it touches."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gradgate.core.errors import GradgateError
from gradgate.faults.catalogue import Fault

_CHECK = re.compile(r"(?:^|/)(gg\d{3})_\w+\.py$")


def affected(faults: Sequence[Fault], root: Path, ref: str) -> list[Fault]:
    """Faults that a change since a git revision can bear on; the working tree counts.

    Args:
        faults: to choose from.
        root: a folder inside the repository; the faults' files are relative to it.
        ref: the revision.

    Raises:
        GradgateError: git knows no such revision, or the root is in no repository.
    """
    files = _git(root, "diff", "--name-only", "--relative", ref, "--")
    codes = {match[1].upper() for file in files if (match := _CHECK.search(file))}
    entries = {Path(file).name for file in files if file.endswith(".yaml")}
    return [
        fault
        for fault in faults
        if fault.entry in entries or codes & set(fault.codes) or any(edit.file in files for edit in fault.edits)
    ]


def _git(root: Path, *words: str) -> list[str]:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise GradgateError(f"--changed: git cannot be run: {error.strerror or error}") from error
    if done.returncode:
        raise GradgateError(f"--changed: git says: {done.stderr.strip().splitlines()[0]}")
    return done.stdout.splitlines()
