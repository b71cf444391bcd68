"""A stage against its stored baseline: counted once for every check that asks, in the way that it was recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from gradgate.checks.based import outcome_of
from gradgate.checks.isolation import isolated
from gradgate.checks.raised import calling
from gradgate.core.comparison import Metric
from gradgate.core.finding import Finding, Location
from gradgate.core.origin import is_own_code
from gradgate.core.verdict import Outcome
from gradgate.gates.baselines import BaselineError, Found, find, key_of
from gradgate.gates.counters import count, recompiles
from gradgate.gates.counts import Counts
from gradgate.gates.exact import compare_counts, line_of_growth
from gradgate.gates.machine import this_machine
from gradgate.subjects.contract import Context, Stage, Subject

SEED = 0  # of every counted run: another seed has other batches, and counts other bytes
ROUNDS, MOST_ROUNDS, TIMING_S = 20, 200, 0.6  # single steps: as many as the seconds allow, within the two bounds
SHORTEST_S = 1e-6
RERECORD = 'meant? gradgate baseline update --reason "..."'

_COUNTED: WeakKeyDictionary[Stage, dict[str, Counts]] = WeakKeyDictionary()


def counted(subject: Subject, stage: Stage, device: str) -> Counts:
    """The counters of a stage's step, from memory where it was counted before.

    Raises:
        SubjectRaisedError: the stage does not start or step.
    """
    known = _COUNTED.setdefault(stage, {})
    if device not in known:
        with isolated(SEED, "counting"):
            step = _started(stage, device)
            counts = count(step, lambda file: relative_to(subject, file))
            further = recompiles(step)
            values = {**counts.values, **({} if further is None else {"recompiles": further})}
            known[device] = Counts(values, counts.by_line, counts.operations, counts.inputs)
    return known[device]


def timed(stage: Stage, device: str) -> tuple[float, ...]:
    """CPU seconds of each of some steps of a stage, one thread, to a tenth of a microsecond.

    Raises:
        SubjectRaisedError: the stage does not start or step.
    """
    with isolated(SEED, "timing"):
        step = _started(stage, device)
        first = min(_seconds(step) for _ in range(3))
        rounds = min(MOST_ROUNDS, max(ROUNDS, round(TIMING_S / first)))
        return tuple(round(_seconds(step), 7) for _ in range(rounds))


def entry_for(subject: Subject, stage: Stage, context: Context) -> Found | Outcome:
    """What is stored for a stage on this machine, or the outcome of a check where nothing is."""
    if context.baselines is None:
        return Outcome(not_applicable="no stored baselines: there is no pyproject.toml with a project around them")
    with isolated(SEED, "baseline"):  # threads as they are counted
        machine = this_machine()
    try:
        found = find(context.baselines, machine, key_of(subject.name, stage.name, context.device))
    except BaselineError as error:
        return Outcome(inconclusive=f"{error}; see GG002")
    return found if found.entry else Outcome(not_applicable=found.refused)


def judged(subject: Subject, stage: Stage, context: Context, names: Sequence[str], rule: tuple[str, str]) -> Outcome:
    """Some counters of a stage against the stored ones, at tolerance 0.

    Args:
        subject: whose stage it is.
        stage: which.
        context: of the check.
        names: of the counters. Where there is a base to compare with, they are held against base's.
        rule: code and name of the check.

    Returns:
        An error for each counter that grew, with the line that grew most; a note for what shrank or runs otherwise.

    Raises:
        SubjectRaisedError: the stage does not start or step.
    """
    if context.compare is not None:
        return outcome_of(context.compare(stage.name), names, rule)
    found = entry_for(subject, stage, context)
    if isinstance(found, Outcome):
        return found
    assert found.entry is not None  # noqa: S101 - else it is an Outcome
    before, after = found.entry.counts, counted(subject, stage, context.device)
    metrics = [metric for metric in compare_counts(before, after) if metric.metric in names]
    measured = {metric.metric: metric.head for metric in metrics}
    allowed = {metric.metric: metric.base for metric in metrics if metric.metric != "op_signature"}
    unlike = [metric for metric in metrics if metric.verdict == "incomparable"]
    if unlike:
        return Outcome((), measured, allowed, inconclusive=f"{unlike[0].reason}; {RERECORD}")
    findings = [_finding(rule, metric, before, after, subject) for metric in metrics if metric.verdict != "pass"]
    return Outcome(tuple(findings), measured, allowed)


def _started(stage: Stage, device: str) -> Callable[[], Any]:
    with calling("start()"):
        run = stage.start(SEED, device=device)
        batches = run.batches()

    def step() -> None:
        with calling("a step"):
            run.step(next(batches))

    return step


def _seconds(step: Callable[[], Any]) -> float:
    began = time.thread_time()
    step()
    return max(time.thread_time() - began, SHORTEST_S)


def root_of(subject: Subject) -> Path:
    """The folder that lines of a subject are relative to."""
    return subject.source.resolve().parent if subject.source else Path.cwd()


def relative_to(subject: Subject, file: str) -> str | None:
    """A file's path within that folder; None for a file that is not the subject's own."""
    return os.path.relpath(os.path.realpath(file), root_of(subject)) if is_own_code(file, subject.source) else None


def _finding(rule: tuple[str, str], metric: Metric, before: Counts, after: Counts, subject: Subject) -> Finding:
    name = metric.metric
    if name == "op_signature":
        message, line = f"other operations than stored: {metric.reason}", None
    else:
        line, reason = line_of_growth(name, before, after)
        grew = "grew" if metric.verdict == "fail" else "fell"
        message = f"`{name}` {grew} from {metric.base:,} to {metric.head:,} a step" + (f", {reason}" if reason else "")
        message += "; allowed: no growth" if metric.verdict == "fail" else ": improved, re-record it"
    culprit = None
    if line is not None and line.file:
        culprit = Location(str(root_of(subject) / line.file), line.number, line.function, line.source)
    return Finding(
        *rule,
        message,
        severity="error" if metric.verdict == "fail" else "note",
        culprit=culprit,
        fix=RERECORD,
        detail={"metric": name, "stored": metric.base, "now": metric.head},
    )
