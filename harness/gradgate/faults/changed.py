"""What a change can bear on: faults in a file that it touches, and for a check that it touches; clean edits alike."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
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

    Returns:
        Faults in files that differ, in entries that differ, and for checks that differ. Clean edits that name, as
        `codes`, what they are held against: one in a file that differs the checks that are named for faults there, one
        in another file those that differ. With an entry that differs they name none, and are held against all.

    Raises:
        GradgateError: git knows no such revision, or the root is in no repository.
    """
    files = set(_git(root, "diff", "--name-only", "--relative", ref, "--"))
    checks = {match[1].upper() for file in files if (match := _CHECK.search(file))}
    entries = {Path(file).name for file in files if file.endswith(".yaml")}
    there = [fault for fault in faults if any(edit.file in files for edit in fault.edits)]
    theirs = checks.union(*(fault.codes for fault in there))
    chosen = []
    for fault in faults:
        if fault.clean and fault.entry not in entries:
            codes = tuple(sorted(theirs if fault in there else checks))
            chosen += [replace(fault, codes=codes)] if codes else []
        elif fault in there or fault.entry in entries or checks & set(fault.codes):
            chosen.append(fault)
    return chosen


def _git(root: Path, *words: str) -> list[str]:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise GradgateError(f"--changed: git cannot be run: {error.strerror or error}") from error
    if done.returncode:
        raise GradgateError(f"--changed: git says: {done.stderr.strip().splitlines()[0]}")
    return done.stdout.splitlines()
