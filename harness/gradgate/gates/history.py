"""History: what checks of stored baselines have measured, for trends. One line a check, appended."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradgate.gates.self_checks import log_folder


def remember(machine: str, subject: str, numbers: Mapping[str, Any], commit: str = "") -> str:
    """Add one check.

    Args:
        machine: name of its class; each has a file, so that a cache of several runners holds them side by side.
        subject: what was measured.
        numbers: by `stage/metric`.
        commit: full hash of what was measured; empty where there is none, or the tree has changes.

    Returns:
        Why it could not be written; empty where it was. Runs side by side do not mix: an entry is one small append.
    """
    file = _file(machine)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"time": now, "subject": subject, "commit": commit, "numbers": dict(numbers)}) + "\n")
    except OSError as error:
        return f"the history {file} cannot be written: {error.strerror or error}"
    return ""


def recall(machine: str) -> list[dict[str, Any]]:
    """All entries of a class of machine, oldest first; a line that a killed run left half written is passed over."""
    try:
        lines = _file(machine).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"time", "subject", "numbers"} <= entry.keys():
            found.append(entry)
    return found


def _file(machine: str) -> Path:
    return log_folder() / "history" / f"{machine}.jsonl"
