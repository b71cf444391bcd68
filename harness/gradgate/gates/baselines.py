"""Stored baselines: one JSON file a class of machine, with what each stage counted and how long its rounds took."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradgate.core.errors import GradgateError
from gradgate.gates.counts import Counts
from gradgate.gates.machine import EXACT, Machine
from gradgate.gates.trajectories import Trajectory

SCHEMA_VERSION = 2  # 2: entries have trajectories
UPDATE = "gradgate baseline update --reason TEXT"
MARKERS = ("<<<<<<<", "=======", ">>>>>>>")
_INNERMOST = re.compile(r"\[\n\s*([^\[\]]*?)\n\s*\]")


class BaselineError(GradgateError):
    """A stored baseline cannot be used: it is damaged, or of a newer schema."""


class NewerError(BaselineError):
    """A stored baseline is of a schema that this version does not know: it is not for it to replace."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stage, as it was measured.

    Args:
        counts: its exact counters; the single operations are not stored, only their signature.
        rounds: CPU seconds of each timed step, as measured.
        commit: full hash of what was measured.
        recorded: UTC date and time.
        reason: why it was recorded.
        trajectories: of its whole fits over seeds, by name; empty where it has none.
    """

    counts: Counts
    rounds: tuple[float, ...]
    commit: str
    recorded: str
    reason: str
    trajectories: Mapping[str, Trajectory] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the fastest step: of all stored estimates the one that wanders least."""
        return min(self.rounds)

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "commit": self.commit,
            "recorded": self.recorded,
            "reason": self.reason,
            "rounds": list(self.rounds),
            "counts": replace(self.counts, operations=()).tree(),
            "trajectories": {name: one.tree() for name, one in self.trajectories.items()},
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Entry:
        """From JSON."""
        followed = {name: Trajectory.from_tree(one) for name, one in tree.get("trajectories", {}).items()}
        counts, rounds = Counts.from_tree(tree["counts"]), tuple(tree["rounds"])
        return cls(**{**tree, "counts": counts, "rounds": rounds, "trajectories": followed})


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is stored for one class of machine.

    Args:
        machine: the class.
        entries: `subject/stage` -> what was measured.
    """

    machine: Machine
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def dumps(self) -> str:
        """The file's text: the same baseline gives the same bytes, and its digest tells a later edit."""
        tree: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "machine": dict(self.machine.facts),
            "entries": {key: entry.tree() for key, entry in sorted(self.entries.items())},
        }
        text = json.dumps({**tree, "digest": _digest(tree)}, indent=1, ensure_ascii=False)
        return _INNERMOST.sub(_in_one_line, text) + "\n"


def key_of(subject: str, stage: str, device: str = "cpu") -> str:
    """What an entry is stored under: `subject/stage`, and the device where it is no CPU."""
    return f"{subject}/{stage}" + ("" if device == "cpu" else f"@{device}")


def file_of(folder: Path, machine: Machine) -> Path:
    """Where the baseline of a class of machine lies."""
    return folder / f"{machine.name}.json"


def read(file: Path) -> Baseline:
    """Read one baseline.

    Raises:
        BaselineError: it cannot be read, is truncated, holds a merge conflict, was edited, or is of another schema.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{file}: the baseline cannot be read: {error}") from error
    if any(line.startswith(MARKERS) for line in text.splitlines()):
        raise BaselineError(f"{file}: holds merge conflict markers; take one side whole, then record it anew: {UPDATE}")
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise BaselineError(
            f"{file}: truncated, or no JSON ({error}); restore it, or record it anew: {UPDATE}"
        ) from None
    return _parsed(file, tree)


def _parsed(file: Path, tree: Any) -> Baseline:
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if not isinstance(version, int):
        raise BaselineError(f"{file}: no baseline of gradgate: it has no `schema_version`")
    if version > SCHEMA_VERSION:
        raise NewerError(f"{file}: of schema {version}, this gradgate knows {SCHEMA_VERSION}: upgrade gradgate")
    digest = tree.pop("digest", None)
    if digest != _digest(tree):
        raise BaselineError(f"{file}: was changed after it was recorded (its digest differs); record it anew: {UPDATE}")
    try:
        return Baseline(
            Machine(tree["machine"]), {key: Entry.from_tree(entry) for key, entry in tree["entries"].items()}
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise BaselineError(
            f"{file}: of schema {version}, but incomplete ({error!r}); record it anew: {UPDATE}"
        ) from error


def read_all(folder: Path) -> dict[Path, Baseline | BaselineError]:
    """Every file of a folder, by name: a baseline, or why it is none. Empty where there is no folder."""
    found: dict[Path, Baseline | BaselineError] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            found[file] = read(file)
        except BaselineError as error:
            found[file] = error
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder of baselines says of one stage on one machine.

    Args:
        entry: the stored entry; None where none can be used.
        timed: whether its times may be held against this machine's; else its counters alone.
        refused: why something cannot be used, in words; empty where all can.
    """

    entry: Entry | None
    timed: bool
    refused: str = ""


def find(folder: Path, machine: Machine, key: str) -> Found:
    """The entry of this class of machine; else, for its counters, one of the same torch build, ISA and threads.

    Args:
        folder: of the baselines.
        machine: here.
        key: of the entry.

    Raises:
        BaselineError: the file of this class cannot be used.
    """
    own = file_of(folder, machine)
    if own.exists():
        entry = read(own).entries.get(key)
        return Found(entry, entry is not None, "" if entry else f"{own} has no entry {key}; record one: {UPDATE}")
    others = {
        file: baseline
        for file, baseline in read_all(folder).items()
        if isinstance(baseline, Baseline) and key in baseline.entries
    }
    if not others:
        return Found(None, False, f"no baseline of {key} in {folder}; record one: {UPDATE}")
    nearest = min(others, key=lambda file: len(others[file].machine.differences(machine)))
    differences = "; ".join(others[nearest].machine.differences(machine))
    refused = f"{nearest.name} is of another class of machine ({differences})"
    for file, other in others.items():
        if not other.machine.differences(machine, EXACT):
            return Found(other.entries[key], False, f"{refused}: times are refused, counters taken from {file.name}")
    return Found(None, False, f"{refused}: refused; record one here: {UPDATE}")


def _in_one_line(found: re.Match[str]) -> str:
    """An innermost list on one line, so that a diff shows one row a number; no JSON string holds a line break."""
    return "[" + re.sub(r",\n\s*", ", ", found[1]) + "]"


def _digest(tree: Mapping[str, Any]) -> str:
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
