"""Cross-check: what the scanner finds in the subject's source, held against what the recorder saw of a few steps."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from gradgate.checks.isolation import isolated
from gradgate.checks.recording import STEPS, Recording, call_formulas, recorded, stage_of_formulas
from gradgate.checks.rules import SUPPRESSIBLE
from gradgate.checks.source.trainer import paths_of
from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding
from gradgate.core.verdict import Mark, Marked
from gradgate.scan.scanner import scan
from gradgate.scan.sources import UnreadableError, decode, read_bytes
from gradgate.subjects.contract import Context, Stage, Subject

# Where the recorder sees every case of a fault in what runs, whatever the numbers are: its silence refutes.
_REFUTABLE = frozenset({"GG101", "GG102", "GG103", "GG104", "GG105", "GG106", "GG107", "GG202", "GG209", "GG210"})
# Whether these show depends on the numbers of a batch.
_BY_NUMBERS = frozenset({"GG301", "GG304", "GG307", "GG415"})


@dataclass(frozen=True)
class _Place:
    """The lines of the statement that a finding points at."""

    file: str
    lines: range


def cross_check(subject: Subject, context: Context, codes: Collection[str]) -> tuple[Marked, ...]:
    """Scan the subject's source, and say of each finding whether a recorded run bears it out.

    Args:
        subject: whose `source` is scanned, or the modules that its adapter imports, and whose stages are run.
        context: seed and device of the runs.
        codes: of the rules that count.

    Returns:
        One mark a finding, in the scanner's order. Stages that do not start decide nothing.
    """
    paths = [Path(subject.source)] if subject.source is not None else paths_of(subject)
    if not paths or not codes:
        return ()
    found = scan(paths, known=SUPPRESSIBLE, jobs=1).findings
    places = [(finding, place) for finding in found if finding.code in codes and (place := _place(finding))]
    if not places:
        return ()
    reached = _reached(subject, context, {place for _, place in places})
    recordings = dict(_recordings(subject, context))
    return tuple(_marked(finding, place, place in reached, recordings) for finding, place in places)


def _place(finding: Finding) -> _Place | None:
    """The statement of a finding's culprit; None where it is no line of a Python file."""
    place = finding.culprit
    if place is None or not place.file.endswith(".py"):
        return None
    try:
        tree = ast.parse(decode(Path(place.file), read_bytes(Path(place.file))).text)
    except (UnreadableError, SyntaxError, ValueError, RecursionError):
        return None
    lines = range(place.line, place.line + 1)
    spans = [_span(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    around = [span for span in spans if place.line in span]
    return _Place(os.path.realpath(place.file), min(around, key=len, default=lines))


def _span(node: ast.stmt) -> range:
    """A statement's lines; of one that holds others, those of its head."""
    body: list[ast.stmt] = getattr(node, "body", [])
    last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
    return range(node.lineno, max(last, node.lineno) + 1)


def _marked(finding: Finding, place: _Place, reached: bool, recordings: Mapping[str, Recording]) -> Marked:
    seen = [
        (stage, other) for stage, entry in recordings.items() for other in entry.findings if _is_same(other, finding)
    ]
    for stage, other in seen:
        if _is_at(other, place):
            return Marked(finding, "confirmed", f"recorded in stage {stage}: {other.headline()}")
    return Marked(finding, *_unconfirmed(finding, reached, recordings, [other for _, other in seen]))


def _unconfirmed(
    finding: Finding, reached: bool, recordings: Mapping[str, Recording], seen: Sequence[Finding]
) -> tuple[Mark, str]:
    """The mark of a finding that the recorder does not name, and why."""
    if not reached:
        return "not_reached", f"the line did not run in {STEPS} steps of each stage"
    for other in seen:
        if other.culprit is None or _is_same_victim(other, finding):
            where = f"line {other.culprit.line}" if other.culprit else "no line"
            return "undecided", f"the line ran; of this fault the recorder names {where}"
    raised = next((entry.raised for entry in recordings.values() if entry.raised), "")
    if raised or not recordings:
        return "undecided", f"the line ran; the recorded run did not end: {raised or 'no stage starts'}"
    if finding.code in _BY_NUMBERS:
        return "undecided", "the line ran and the fault did not show; with other numbers it may"
    if finding.code not in _REFUTABLE:
        return "undecided", f"the line ran; the recorder cannot rule out {finding.code}"
    steps = sum(entry.steps for entry in recordings.values())
    return "refuted", f"the line ran, and in {steps} recorded steps nothing of the kind was seen there"


def _is_same(seen: Finding, finding: Finding) -> bool:
    """Whether a recorded finding is of a static one's kind; notes say that the code means it so."""
    return seen.severity != "note" and (seen.code == finding.code or (seen.kind == finding.kind != "other"))


def _is_at(seen: Finding, place: _Place) -> bool:
    where = seen.culprit
    return where is not None and where.line in place.lines and os.path.realpath(where.file) == place.file


def _is_same_victim(seen: Finding, finding: Finding) -> bool:
    left, right = seen.victim, finding.victim
    if left is None or right is None:
        return False
    return left.line == right.line and os.path.realpath(left.file) == os.path.realpath(right.file)


def _recordings(subject: Subject, context: Context) -> Iterator[tuple[str, Recording]]:
    for stage in subject.stages:
        with suppress(GradgateError):
            yield stage.name, recorded(subject, stage, context)


def _reached(subject: Subject, context: Context, places: Collection[_Place]) -> set[_Place]:
    """Which places run when each stage starts and takes the steps that are recorded."""
    found: set[_Place] = set()
    for stage in subject.stages:
        with isolated(context.seed, "lines"), _traced(places, found), suppress(Exception):
            _drive(subject, stage, context)
    return found


def _drive(subject: Subject, stage: Stage, context: Context) -> None:
    if stage is stage_of_formulas(subject):
        call_formulas(subject.functions, context)
    run = stage.start(context.seed, device=context.device)
    for batch in islice(run.batches(), STEPS):
        run.step(batch)


@contextmanager
def _traced(places: Collection[_Place], found: set[_Place]) -> Iterator[None]:
    """Collect the places that run. A debugger's or a coverage tool's trace is put back afterwards.

    Only functions whose file has a place are followed line by line: the rest costs one call each.
    """
    by_file: dict[str, list[_Place]] = {}
    for place in places:
        by_file.setdefault(place.file, []).append(place)
    known: dict[str, list[_Place]] = {}

    def local(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        if event == "line":
            found.update(place for place in known[frame.f_code.co_filename] if frame.f_lineno in place.lines)
        return local

    def enter(frame: FrameType, _: str, __: Any) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        if name not in known:
            known[name] = by_file.get(os.path.realpath(name), [])
        return local if known[name] else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
