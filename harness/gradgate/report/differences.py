"""Differences between two runs of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from gradgate.core.errors import GradgateError
from gradgate.report.records import Finding, Result, Run

_Key = tuple[str, str]
_GOOD, _BAD = ("passed",), ("failed", "error")


@dataclass(frozen=True, slots=True)
class Change:
    """One check on one stage whose status is another one now.

    Args:
        code: the rule's.
        name: the rule's.
        stage: the stage, or empty.
        before: its status before; `absent` where it was not there.
        after: its status now.
        meaning: worse, better, or other.
    """

    code: str
    name: str
    stage: str
    before: str
    after: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A measured number that moved by more than a tenth, in a check whose status stayed."""

    code: str
    stage: str
    number: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Differences:
    """Two runs side by side.

    Args:
        before: the earlier run.
        after: the later one.
        changes: checks whose status changed, worse ones first.
        new: findings that were not there before.
        gone: findings that are not there any more.
        moved: numbers that moved.
        environment: key -> (before, after) of what differs.
    """

    before: Run
    after: Run
    changes: tuple[Change, ...]
    new: tuple[Finding, ...]
    gone: tuple[Finding, ...]
    moved: tuple[Moved, ...]
    environment: Mapping[str, tuple[Any, Any]]


def differences(before: Run, after: Run) -> Differences:
    """What is another one now.

    Raises:
        GradgateError: the runs are of two subjects.
    """
    if before.subject != after.subject:
        raise GradgateError(
            f"results of two subjects: {before.subject!r} and {after.subject!r}; expected two runs of one"
        )
    old, new = _by_key(before), _by_key(after)
    found, known = _findings(after), _findings(before)
    keys = sorted((set(before.environment) | set(after.environment)) - {"root"})  # two checkouts of one project
    pairs = {key: (before.environment.get(key), after.environment.get(key)) for key in keys}
    return Differences(
        before,
        after,
        tuple(_changes(old, new)),
        tuple(finding for key, finding in found.items() if key not in known),
        tuple(finding for key, finding in known.items() if key not in found),
        tuple(_moved(old, new)),
        {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
    )


def _by_key(run: Run) -> dict[_Key, Result]:
    return {(result.code, result.stage or ""): result for result in run.results}


def _findings(run: Run) -> dict[tuple[Any, ...], Finding]:
    """By what a finding is, without its line number: code that moved is the same code."""
    return {
        (result.stage, finding.code, finding.culprit and (finding.culprit.file, finding.culprit.source),
         None if finding.culprit else finding.message): finding
        for result in run.results for finding in result.findings
    }  # fmt: skip


def _changes(old: Mapping[_Key, Result], new: Mapping[_Key, Result]) -> list[Change]:
    found = []
    for key in sorted(set(old) | set(new)):
        before = old[key].status if key in old else "absent"
        after = new[key].status if key in new else "absent"
        if before != after:
            meaning = "worse" if after in _BAD or before in _GOOD else "better" if after in _GOOD else "other"
            found.append(Change(key[0], (new.get(key) or old[key]).name, key[1], before, after, meaning))
    return sorted(found, key=lambda change: ("worse", "better", "other").index(change.meaning))


def _moved(old: Mapping[_Key, Result], new: Mapping[_Key, Result]) -> list[Moved]:
    found = []
    for key in sorted(set(old) & set(new)):
        if old[key].status != new[key].status:
            continue
        for name, after in new[key].measured.items():
            before = old[key].measured.get(name)
            if _is_number(before) and _is_number(after) and abs(after - before) > 0.1 * max(abs(before), abs(after)):
                found.append(Moved(*key, name, float(before), float(after)))
    return found


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
