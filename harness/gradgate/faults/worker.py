"""The worker: one process that drives one edited copy of a trainer and says which checks noticed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from gradgate.core.errors import TargetError
from gradgate.core.finding import Finding, Location
from gradgate.core.origin import in_one_line
from gradgate.core.verdict import Result
from gradgate.subjects.contract import Subject

NEAR = 3  # lines
NEAR_BY = ("exact", "near")  # a line that is named so is the fault's: nothing is left to look for
REVERTING = 60.0  # seconds to look among what changed
_SPARE = 10.0  # seconds, of the time for a fault, that such a search leaves
GIBIBYTE = 1 << 30
_NO_COMMIT, _NO_TIME = "0" * 40, "1970-01-01T00:00:00Z"  # of counts that are used once and thrown away


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do.

    Args:
        target: as for `gradgate verify`.
        copy: the folder with the edited copy, first on the import path.
        root: the folder that it is a copy of, second.
        log: where the process's own output goes.
        codes: checks to run.
        others: checks for what `codes` leave, where the witness sees an effect or there are no codes.
        exit_first: stop at the first failure.
        switched: checks to make again, with switches of the configuration flipped, where none of all these fails.
        seen: what to observe -> file with what that witness sees on the unedited source; the process that has no edits
            writes them.
        lines: file, first and last line of the edits.
        baselines: folder of stored counts that checks may read; empty: none.
        store: folder to store the counts of this source in; empty: nowhere.
        locate: seconds to look for the line of a check that names none; 0: not at all.
        changed: files that differ from the root's, among whose changes such a line is looked for too; none: it is not.
        seed: for the checks.
        timeout: seconds after which its process is ended.
        memory: most address space of the process, in GiB.
    """

    target: str
    copy: Path
    root: Path
    log: Path
    codes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    exit_first: bool = True
    switched: tuple[str, ...] = ()
    seen: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[tuple[str, int, int], ...] = ()
    baselines: str = ""
    store: str = ""
    locate: float = 0.0
    changed: tuple[str, ...] = ()
    seed: int = 0
    timeout: float = inf
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
        repair: where the check does not know it: the change that makes it pass, which names the line.
        change: as `line`, of the place whose old text makes the check pass; empty: not looked for.
        change_place: that place.
    """

    code: str
    stage: str | None
    message: str
    line: str
    place: str = ""
    repair: str = ""
    change: str = ""
    change_place: str = ""


@dataclass(slots=True)
class Report:
    """What a worker found.

    Attributes:
        notices: checks that failed.
        effect: where the witness saw another value; empty: nowhere; None: it was not asked.
        built: whether the subject could be built.
        broken: why it could not, or how a check broke.
        seconds: until the first failure; without one, in all.
    """

    notices: list[Notice] = field(default_factory=list)
    effect: str | None = None
    built: bool = False
    broken: str = ""
    seconds: float = 0.0


def work(task: Task) -> Report:
    """What a worker process, which this task has for itself, does."""
    try:
        _contain(task)
        return examine(task)
    except BaseException as error:
        return Report(broken=in_one_line(error))


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
    report.built = True
    if task.store:
        _store(subject, Path(task.store))
    for witness, file in task.seen.items():
        _ask(witness, file, task, subject, report)
    failed = _failed(task, subject, report, start)
    if failed is not None:
        _locate(task, subject, report, failed, start)
    report.seconds = report.seconds or time.perf_counter() - start
    return report


def _failed(task: Task, subject: Subject, report: Report, start: float) -> Result | None:
    """The first failure: of the checks that are named, of the others, with switches flipped."""
    passes = [(task.codes, False), (task.others, False), (task.switched, True)]
    if task.others and task.codes and report.effect == "":
        del passes[1:]  # equivalent; a generated fault has no codes, and a witness that was not written for it
    for codes, switches in passes:
        failed = _check(task, subject, codes, report, start, switches=switches) if codes else None
        if failed is not None:
            return failed
    return None


def _store(subject: Subject, folder: Path) -> None:
    """Store what every stage counts, as `gradgate baseline update` does on the commit before an edit."""
    from gradgate.checks.isolation import isolated
    from gradgate.checks.stored import SEED, counted, timed
    from gradgate.gates.baselines import Baseline, Entry, file_of, key_of
    from gradgate.gates.machine import this_machine

    with isolated(SEED, "baseline"):
        machine = this_machine()
    entries = {
        key_of(subject.name, stage.name, "cpu"): Entry(
            counted(subject, stage, "cpu"), timed(stage, "cpu"), _NO_COMMIT, _NO_TIME, "the unedited source"
        )
        for stage in subject.stages
    }
    file_of(folder, machine).write_text(Baseline(machine, entries).dumps(), encoding="utf-8")


def _ask(witness: str, file: str, task: Task, subject: Subject, report: Report) -> None:
    import torch

    from gradgate.checks.isolation import isolated
    from gradgate.faults.witness import differ, observe

    with isolated(task.seed, "witness"):
        try:
            seen = observe(witness, subject)
        except Exception as error:
            if not task.lines:
                report.broken = f"the witness raised {in_one_line(error)}"
            report.effect = f"it raises {in_one_line(error)}"
            return
    if task.lines:
        # gradgate: ignore[checkpoint-unsafe] -- written by a process of this run
        before = torch.load(file, weights_only=False)
        report.effect = differ(seen, before)
    else:
        torch.save(seen, file)


def _check(
    task: Task, subject: Subject, codes: Sequence[str], report: Report, start: float, *, switches: bool = False
) -> Result | None:
    """Run checks and note what they find; the first that failed."""
    from gradgate.checks.runner import check_trainer

    def note(result: Result) -> None:
        if result.status == "failed":
            report.notices.append(_notice(result, task))
            report.seconds = report.seconds or time.perf_counter() - start
        elif result.status == "error" and not report.broken:
            report.broken = f"{result.code}: {result.reason}"

    stored = Path(task.baselines) if task.baselines else None
    verdict = check_trainer(
        subject,
        select=codes,
        seed=task.seed,
        exit_first=task.exit_first,
        baselines=stored,
        switches=switches,
        on_result=note,
    )
    return next((result for result in verdict.results if result.status == "failed"), None)


def _locate(task: Task, subject: Subject, report: Report, failed: Result, start: float) -> None:
    """Name the line of a check that failed and does not know it: among what changed, and by trial repairs."""
    from gradgate.faults.locate import RUNS, by_repairs, by_reverts, is_unsure, outside
    from gradgate.faults.revert import hunks

    baselines = Path(task.baselines) if task.baselines else None
    changed = hunks({task.copy / file: (task.root / file).read_text(encoding="utf-8") for file in task.changed})
    places = {"the base": changed}
    if changed and report.notices[0].line not in NEAR_BY and outside(places)(failed):
        left = task.timeout - (time.perf_counter() - start) - _SPARE  # a kill is not lost to the search for its line
        seconds = min(left, max(REVERTING, RUNS * failed.seconds))
        guilty = by_reverts(subject, places, seed=task.seed, baselines=baselines, seconds=seconds)(failed)
        near, place = (_nearness(guilty.place, task), _short(guilty.place)) if guilty else ("", "")
        report.notices[0] = replace(report.notices[0], change=near, change_place=place)
    if task.locate and is_unsure(failed):
        repaired = by_repairs(subject, seed=task.seed, baselines=baselines, seconds=task.locate)(failed)
        if repaired is not None:
            near, place = _nearness(repaired.place, task), _short(repaired.place)
            report.notices[0] = replace(report.notices[0], line=near, place=place, repair=repaired.message)


def _short(place: Location) -> str:
    return f"{Path(place.file).name}:{place.line}"


def _notice(result: Result, task: Task) -> Notice:
    errors = [finding for finding in result.findings if finding.severity == "error"]
    order = ("exact", "near", "elsewhere", "none")
    line, at = min(
        ((_line(finding, task), i) for i, finding in enumerate(errors)), key=lambda pair: order.index(pair[0])
    )
    finding = errors[at]
    place = _short(finding.culprit) if finding.culprit else ""
    return Notice(result.code, result.stage, finding.message, line, place)


def _line(finding: Finding, task: Task) -> str:
    return "none" if finding.culprit is None else _nearness(finding.culprit, task)


def _nearness(place: Location, task: Task) -> str:
    gaps = [
        max(first - place.line, place.line - last, 0)
        for file, first, last in task.lines
        if Path(place.file).resolve() == (task.copy / file).resolve()
    ]
    if not gaps or min(gaps) > NEAR:
        return "elsewhere"
    return "exact" if min(gaps) == 0 else "near"


def _contain(task: Task) -> None:
    """Its output in a file, an end to its memory, and nothing compiled into a copy that is used once and removed."""
    import resource

    sys.dont_write_bytecode = True
    descriptor = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = task.memory * GIBIBYTE
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    os.chdir(task.log.parent)
