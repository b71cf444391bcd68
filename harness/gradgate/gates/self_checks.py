"""The log of A/A pairs: how often the gate has called identical code slower, on this machine, so far."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradgate.gates.stats import Interval, wilson

NAME = "self_checks.jsonl"
KEPT = 5000  # newest entries that count


def log_folder() -> Path:
    """Where the log lies: `$GRADGATE_CACHE`, else `gradgate` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GRADGATE_CACHE") or Path(cache) / "gradgate")


def record(folder: Path, target: str, self_check: Mapping[str, Any]) -> str:
    """Add one A/A pair.

    Args:
        folder: of the log; made where it is missing.
        target: what was compared.
        self_check: `estimate`, `blocks` and `verdict` of the pair.

    Returns:
        Why it could not be written; empty where it was. Runs side by side do not mix: an entry is one small append.
    """
    entry = {"time": round(time.time()), "target": target, **self_check}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / NAME).open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
    except OSError as error:
        return f"the A/A log {folder / NAME} cannot be written: {error.strerror or error}"
    return ""


def observed(folder: Path) -> tuple[int, int, Interval]:
    """False alarms among the newest A/A pairs: how many, of how many, and the share with its 95 % interval."""
    verdicts = _verdicts(folder / NAME)
    alarms = verdicts.count("fail")
    return alarms, len(verdicts), wilson(alarms, len(verdicts))


def _verdicts(log: Path) -> list[str]:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-KEPT:]
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(str(json.loads(line)["verdict"]))
        except (ValueError, KeyError, TypeError):
            continue  # a line that a killed run left half written
    return found
