"""The worker: one process that drives one edited copy of a trainer and says which checks noticed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradgate.core.errors import TargetError
from gradgate.core.finding import Finding
from gradgate.core.origin import in_one_line
from gradgate.core.project import find_project
from gradgate.core.verdict import Result
from gradgate.subjects.contract import Subject

NEAR = 3  # lines
GIBIBYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do.

    Args:
        target: as for `gradgate verify`.
        copy: the folder with the edited copy, first on the import path.
        root: the folder that it is a copy of, second.
        log: where the process's own output goes.
        codes: checks to run first; empty: none of them.
        rest: checks to run afterwards, unless one of the first has failed.
        exit_first: stop at the first failure.
        witness: what to observe; empty: nothing.
        seen: file with what the witness sees on the unedited source; the process that has no edits writes it.
        lines: file, first and last line of the edits.
        seed: for the checks.
        memory: most address space of the process, in GiB.
    """

    target: str
    copy: Path
    root: Path
    log: Path
    codes: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    exit_first: bool = True
    witness: str = ""
    seen: str = ""
    lines: tuple[tuple[str, int, int], ...] = ()
    seed: int = 0
    memory: int = 16


@dataclass(frozen=True, slots=True)
class Notice:
    """A check that failed.

    Args:
        code: of its rule.
        stage: where; None: the subject as a whole.
        message: its first finding.
        line: `exact` or `near`, where it names a changed line or one within 3 lines of it, else `elsewhere` or `none`.
        place: the line that it names.
    """

    code: str
    stage: str | None
    message: str
    line: str
    place: str = ""


@dataclass(slots=True)
class Report:
    """What a worker found.

    Attributes:
        notices: checks that failed.
        effect: where the witness saw another value; empty: nowhere; None: it was not asked.
        broken: why the subject could not be built, or a check broke.
        seconds: until the first failure; without one, in all.
    """

    notices: list[Notice] = field(default_factory=list)
    effect: str | None = None
    broken: str = ""
    seconds: float = 0.0


def work(task: Task, pipe: Any) -> None:
    """The process's main function: sends one Report and ends."""
    try:
        _contain(task)
        report = examine(task)
    except BaseException as error:
        report = Report(broken=in_one_line(error))
    pipe.send(report)
    pipe.close()


def examine(task: Task) -> Report:
    """Build the subject from the copy, ask the witness, run the checks."""
    from gradgate.subjects.loading import load_target

    start = time.perf_counter()
    report = Report()
    try:
        sys.path.insert(0, str(task.root))
        subject = load_target(task.target, task.copy)
    except TargetError as error:
        report.broken = str(error)
        return report
    if task.witness:
        _ask(task, subject, report)
    for codes in (task.codes, task.rest):
        if codes and not (report.notices and task.exit_first):
            _check(task, subject, codes, report, start)
    report.seconds = report.seconds or time.perf_counter() - start
    return report


def _ask(task: Task, subject: Subject, report: Report) -> None:
    import torch

    from gradgate.checks.isolation import isolated
    from gradgate.faults.witness import differ, observe

    with isolated(task.seed, "witness"):
        try:
            seen = observe(task.witness, subject)
        except Exception as error:
            if not task.lines:
                report.broken = f"the witness raised {in_one_line(error)}"
            report.effect = f"it raises {in_one_line(error)}"
            return
    if task.lines:
        # gradgate: ignore[checkpoint-unsafe] -- written by a process of this run
        before = torch.load(task.seen, weights_only=False)
        report.effect = differ(seen, before)
    else:
        torch.save(seen, task.seen)


def _check(task: Task, subject: Subject, codes: Sequence[str], report: Report, start: float) -> None:
    from gradgate.checks.runner import check_trainer

    def note(result: Result) -> None:
        if result.status == "failed":
            report.notices.append(_notice(result, task))
            report.seconds = report.seconds or time.perf_counter() - start
        elif result.status == "error" and not report.broken:
            report.broken = f"{result.code}: {result.reason}"

    # A clean edit may run other operations, which a stored count rightly tells and which is no fault.
    stored = find_project(task.root).baselines if task.codes else None
    check_trainer(subject, select=codes, seed=task.seed, exit_first=task.exit_first, baselines=stored, on_result=note)


def _notice(result: Result, task: Task) -> Notice:
    errors = [finding for finding in result.findings if finding.severity == "error"]
    order = ("exact", "near", "elsewhere", "none")
    line, at = min(
        ((_line(finding, task), i) for i, finding in enumerate(errors)), key=lambda pair: order.index(pair[0])
    )
    finding = errors[at]
    place = f"{Path(finding.culprit.file).name}:{finding.culprit.line}" if finding.culprit else ""
    return Notice(result.code, result.stage, finding.message, line, place)


def _line(finding: Finding, task: Task) -> str:
    if finding.culprit is None:
        return "none"
    gaps = [
        max(first - finding.culprit.line, finding.culprit.line - last, 0)
        for file, first, last in task.lines
        if Path(finding.culprit.file).resolve() == (task.copy / file).resolve()
    ]
    if not gaps or min(gaps) > NEAR:
        return "elsewhere"
    return "exact" if min(gaps) == 0 else "near"


def _contain(task: Task) -> None:
    """A process group of its own, its output in a file, and an end to its memory."""
    import resource

    os.setsid()
    descriptor = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = task.memory * GIBIBYTE
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    os.chdir(task.log.parent)
