"""The cache: results by content, valid for one version of the scanner."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradgate.core.finding import Finding, Location
from gradgate.scan.sources import UnreadableError, read_bytes
from gradgate.scan.tree import digest

MOST_ENTRIES = 40_000


@dataclass(frozen=True, slots=True)
class Entry:
    """The result for one content."""

    findings: tuple[Finding, ...]
    hidden: int = 0
    problem: str = ""
    used: tuple[tuple[str, str], ...] = ()


@functools.cache
def scanner_version() -> str:
    """A digest of the scanner's own source and table: any change of it makes every entry void."""
    folder = Path(__file__).parent
    parts = [path.read_bytes() for path in sorted([*folder.rglob("*.py"), *folder.glob("*.json")])]
    return digest(b"\0".join(parts))


def default_folder() -> Path:
    """Where results are kept: `$XDG_CACHE_HOME/gradgate`, or `~/.cache/gradgate`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gradgate"


class Cache:
    """Results of earlier runs, in one file. A cache that cannot be read or written is empty, and no error."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scan.json"
        self._entries: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError):
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            if isinstance(stored, dict) and stored.get("version") == scanner_version():
                self._entries = dict(stored["entries"])

    def get(self, path: str, key: str) -> Entry | None:
        """The result for this content at this path, unless a file that it looked into has changed."""
        held = self._entries.get(f"{path}\0{key}")
        if held is None:
            return None
        if any(self._digest(file) != old for file, old in held.get("used", ())):
            return None
        return Entry(tuple(_finding(raw) for raw in held["findings"]), held["hidden"], held["problem"])

    def put(self, path: str, key: str, entry: Entry) -> None:
        """Keep a result."""
        self._entries[f"{path}\0{key}"] = {
            "findings": [asdict(finding) for finding in entry.findings],
            "hidden": entry.hidden,
            "problem": entry.problem,
            "used": entry.used,
        }
        self._changed = True

    def save(self) -> None:
        """Write what is new, in one rename, so that two runs at once never leave half a file."""
        if not self._changed:
            return
        entries = dict(list(self._entries.items())[-MOST_ENTRIES:])
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.file.parent, suffix=".tmp")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"version": scanner_version(), "entries": entries}, file)
            Path(name).replace(self.file)

    def _digest(self, file: str) -> str:
        if file not in self._digests:
            try:
                self._digests[file] = digest(read_bytes(Path(file)))
            except UnreadableError:
                self._digests[file] = ""
        return self._digests[file]


def _finding(raw: dict[str, Any]) -> Finding:
    places = {key: Location(**raw[key]) if raw[key] else None for key in ("culprit", "victim")}
    return Finding(**{**raw, **places})
