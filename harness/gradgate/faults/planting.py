"""Planting: every fault into its own copy of the source, checks on each, and a score of what was noticed."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gradgate.checks import catalogue as rules
from gradgate.core.errors import GradgateError
from gradgate.core.workers import Lost, run
from gradgate.faults.catalogue import Fault, Planted, plant
from gradgate.faults.edit import EditError
from gradgate.faults.innocent import beside
from gradgate.faults.worker import Notice, Report, Task, work

Status = Literal["killed", "survived", "equivalent", "broken", "hung", "crashed", "quiet", "alarm"]
PARTS = 4  # of the checks of the unedited source for each job: they take from a second to a minute
_IGNORED = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a fault.

    Args:
        fault: which.
        status: `killed`, `survived`, `equivalent` (not noticed, and the witness sees no effect), `broken` (does not
            build), `hung`, `crashed`; of a clean edit `quiet` or `alarm`.
        by: the checks that failed.
        right_family: whether one of them is of an expected family; true where none is expected.
        line: the best naming of a line: `exact`, `near`, `elsewhere`, `none`.
        change: the same of a line among all that changed; that of `line` where it was not looked for.
        seconds: to the first failure.
        reason: why it is broken, or what a survivor needs.
    """

    fault: Fault
    status: Status
    by: tuple[Notice, ...] = ()
    right_family: bool = False
    line: str = "none"
    change: str = "none"
    seconds: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class Campaign:
    """One run over many faults.

    Args:
        target: as for `gradgate verify`; of the faults that name no subject of their own.
        root: the folder on the import path that holds the source.
        jobs: processes at a time.
        timeout: seconds for each.
        seed: of the checks.
        locate: seconds to look for a fault's line by trial repairs where the check names none; 0: not at all.
        among: innocent edits beside each fault; its line is then also looked for among all changed places; 0: not.
    """

    target: str
    root: Path
    jobs: int = 1
    timeout: float = 180.0
    seed: int = 0
    locate: float = 0.0
    among: int = 0
    _folder: Path = field(default=Path(), init=False)

    def run(self, faults: Sequence[Fault], on_outcome: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
        """Plant them all.

        Args:
            faults: in any order.
            on_outcome: called with each as it becomes known.

        Returns:
            One outcome a fault, in their order.

        Raises:
            EditError: an edit does not match; every such entry is named, and nothing was run.
            GradgateError: the unedited source does not build, or fails a check that is to notice a fault.
        """
        planted = _plant_all(faults, self.root, self.among)
        _load_checks()
        outcomes: dict[int, Outcome] = {}
        for target in dict.fromkeys(fault.subject or self.target for fault in faults):
            at = [i for i, fault in enumerate(faults) if (fault.subject or self.target) == target]
            of_one = replace(self, target=target)
            found = of_one._on_one([faults[i] for i in at], [planted[i] for i in at], on_outcome)
            outcomes |= dict(zip(at, found, strict=True))
        return [outcomes[i] for i in range(len(faults))]

    def _on_one(
        self, faults: Sequence[Fault], planted: Sequence[Planted], on_outcome: Callable[[Outcome], None]
    ) -> list[Outcome]:
        """Faults of one subject, this campaign's target."""
        with tempfile.TemporaryDirectory(prefix="gradgate-faults-", ignore_cleanup_errors=True) as folder:
            self._folder = Path(folder).resolve()
            seen = self._before(faults)
            known = {code for fault in faults for code in _built(fault.codes)}  # green on the unedited source
            red: set[str] = set()
            reports: dict[int, Report | Lost] = {}
            left = list(range(len(faults)))
            while left:
                tasks = {i: self._task(f"{i}-{len(red)}", faults[i], planted[i], seen, red) for i in left}
                untold = []
                for i, report in self._drive(tasks):
                    reports[i] = report
                    if _codes_of(report) <= known:
                        on_outcome(_outcome(faults[i], report))
                    else:
                        untold.append(i)
                asked = set[str]().union(*(_codes_of(reports[i]) for i in untold)) - known
                red |= self._red_before(f"others-{len(known)}-{len(red)}", asked, faults)
                known |= asked - red
                left = [i for i in untold if _codes_of(reports[i]) & red]
                for i in untold:
                    if i not in left:
                        on_outcome(_outcome(faults[i], reports[i]))
        return [_outcome(fault, reports[i]) for i, fault in enumerate(faults)]

    def _drive(self, tasks: Mapping[int, Task]) -> Iterator[tuple[int, Report | Lost]]:
        """Run tasks by their faults' numbers; the copies go as they end."""
        numbers = list(tasks)
        for key, report in self._answers(list(tasks.values()), self.timeout):
            shutil.rmtree(tasks[numbers[key]].log.parent, ignore_errors=True)
            yield numbers[key], report

    def _answers(self, tasks: Sequence[Task], timeout: float) -> Iterator[tuple[int, Report | Lost]]:
        """Each task in a process of its own."""
        return run([[task] for task in tasks], work, jobs=self.jobs, timeout=timeout, fresh=True)

    def _before(self, faults: Sequence[Fault]) -> dict[str, str]:
        """Drive the unedited source: what it counts, what each witness sees, and whether the named checks are green.

        Returns:
            For each witness the file with what it sees.

        Raises:
            GradgateError: it does not build, or fails a check that is to notice a fault.
        """
        named = sorted({code for fault in faults for code in _built(fault.codes)})
        witnesses = sorted({fault.witness for fault in faults if not fault.clean})
        seen = {witness: str(self._folder / f"seen-{number}") for number, witness in enumerate(witnesses)}
        self._stored.mkdir()
        tasks = [self._unedited("counts", faults, store=str(self._stored))] if named else []
        tasks += [self._unedited("witnesses", faults, seen=seen)] if seen else []
        tasks += self._checking("named", named, faults)
        for _, report in self._answers(tasks, 4 * self.timeout):
            for notice in _sound(report).notices:
                raise GradgateError(f"the unedited source fails {notice.code}, before any fault: {notice.message}")
        return seen

    def _red_before(self, name: str, codes: Collection[str], faults: Sequence[Fault]) -> frozenset[str]:
        """Those of these codes that fail on the unedited source: they can notice nothing."""
        tasks = self._checking(name, sorted(codes), faults)
        reports = self._answers(tasks, 4 * self.timeout)
        return frozenset(notice.code for _, report in reports for notice in _sound(report).notices)

    def _checking(self, name: str, codes: Sequence[str], faults: Sequence[Fault]) -> list[Task]:
        training = tuple(code for code in codes if _trains(code))  # together, since they look at the same fits
        others, count = [code for code in codes if code not in training], PARTS * self.jobs
        parts = [training, *(tuple(others[i::count]) for i in range(count))]
        return [
            self._unedited(f"{name}-{number}", faults, codes=part, exit_first=False)
            for number, part in enumerate(parts)
            if part
        ]

    def _unedited(self, name: str, faults: Sequence[Fault], **what: Any) -> Task:
        copy = self._copy(f"before-{name}", sorted({_top(edit.file) for fault in faults for edit in fault.edits}), {})
        return Task(self.target, copy, self.root, copy.parent / "log", seed=self.seed, **what)

    @property
    def _stored(self) -> Path:
        """Counts of the unedited source, which those of an edited one are held against."""
        return self._folder / "stored"

    def _task(
        self, name: str, fault: Fault, planted: Planted, seen: Mapping[str, str], red: Collection[str] = ()
    ) -> Task:
        """The checks that are named for a fault, and the others for what they leave; for a clean edit those that do not
        train whole runs. `red` are left out."""
        task = self._edited(name, fault, planted)
        task = replace(task, switched=tuple(code for code in _everything() if code not in red and _is_made_again(code)))
        others = tuple(code for code in _everything() if code not in {*_built(fault.codes), *red})
        if fault.clean:
            # It may cost more: what a stored count or a declared cost rightly tells is no fault.
            quick = tuple(code for code in others if not _trains(code) and code[2] != "7")
            return replace(task, codes=quick, exit_first=False, baselines="", locate=0.0, changed=())
        return replace(task, codes=_built(fault.codes), others=others, seen={fault.witness: seen[fault.witness]})

    def _edited(self, name: str, fault: Fault, planted: Planted) -> Task:
        copy = self._copy(name, sorted({_top(edit.file) for edit in fault.edits}), planted.files)
        return Task(
            self.target,
            copy,
            self.root,
            copy.parent / "log",
            lines=planted.lines,
            baselines=str(self._stored),
            locate=self.locate,
            changed=tuple(planted.files) if self.among else (),
            seed=self.seed,
            timeout=self.timeout,
        )

    def _copy(self, name: str, tops: Sequence[str], files: Mapping[str, str]) -> Path:
        """A copy of what the edits touch, edited; the user's files are only ever read."""
        copy = self._folder / name / "source"
        copy.mkdir(parents=True)
        for top in tops:
            if (self.root / top).is_dir():
                shutil.copytree(self.root / top, copy / top, ignore=_IGNORED)
            else:
                shutil.copy2(self.root / top, copy / top)
        for file, text in files.items():
            (copy / file).write_text(text, encoding="utf-8")
        return copy


def _plant_all(faults: Sequence[Fault], root: Path, among: int) -> list[Planted]:
    planted, stale = [], []
    for fault in faults:
        try:
            others = {} if fault.clean else beside(fault.edits, root, among, fault.id)
            planted.append(plant(fault, root, others))
        except EditError as error:
            stale.append(str(error))
    if stale:
        raise EditError("\n".join([f"{len(stale)} of {len(faults)} faults do not fit the source any more:", *stale]))
    return planted


def _sound(report: Report | Lost) -> Report:
    """The report on the unedited source.

    Raises:
        GradgateError: it does not build, or a check breaks on it.
    """
    broken = report.reason if isinstance(report, Lost) else report.broken
    if isinstance(report, Lost) or broken:
        raise GradgateError(f"the unedited source: {broken}")
    return report


def _codes_of(report: Report | Lost) -> set[str]:
    return set() if isinstance(report, Lost) else {notice.code for notice in report.notices}


def _outcome(fault: Fault, report: Report | Lost) -> Outcome:
    if isinstance(report, Lost):
        return Outcome(fault, "hung" if report.reason == "hung" else "crashed", reason=report.reason)
    by = tuple(report.notices)
    if fault.clean:
        status: Status = "broken" if report.broken else "alarm" if by else "quiet"
        return Outcome(fault, status, by, seconds=report.seconds, reason=report.broken)
    if by:
        families = {code[2] for code in fault.codes}
        best = ("exact", "near", "elsewhere", "none").index
        line, change = min((n.line for n in by), key=best), min((n.change or n.line for n in by), key=best)
        right = not families or any(notice.code[2] in families for notice in by)
        return Outcome(fault, "killed", by, right, line, change, report.seconds)
    if report.broken:
        return Outcome(fault, "broken", seconds=report.seconds, reason=report.broken)
    if report.effect == "":
        return Outcome(fault, "equivalent", seconds=report.seconds, reason="the witness sees no effect")
    return Outcome(fault, "survived", seconds=report.seconds, reason=_needs(fault, report.effect))


def _needs(fault: Fault, effect: str | None) -> str:
    unbuilt = [code for code in fault.codes if code not in _built(fault.codes)]
    needs = f"; not built yet: {', '.join(unbuilt)}" if unbuilt else ""
    return f"the witness sees it in {effect}{needs}"


def _load_checks() -> None:
    """Import torch and the checks once, before processes are forked; never the subject."""
    importlib.import_module("gradgate.checks.runner")
    importlib.import_module("torch._dynamo")  # the first optimizer imports it, which takes seconds
    for rule in rules.select():
        if rules.is_built(rule):
            rules.load_check(rule)


def _top(file: str) -> str:
    return Path(file).parts[0]


def _built(codes: Sequence[str]) -> tuple[str, ...]:
    return tuple(code for code in codes if rules.is_built(rules.rule(code)))


def _everything() -> tuple[str, ...]:
    """Built codes, those that train whole runs last."""
    codes = [rule.code for rule in rules.select() if rules.is_built(rule)]
    return tuple(sorted(codes, key=lambda code: (_trains(code), code)))


def _is_made_again(code: str) -> bool:
    return rules.load_check(rules.rule(code)).again is not None


def _trains(code: str) -> bool:
    return "fit" in rules.load_check(rules.rule(code)).needs


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many of each status."""
    statuses = [outcome.status for outcome in outcomes]
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}


def by_class(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[Outcome]]]:
    """Outcomes under their class, in order."""
    classes = dict.fromkeys(outcome.fault.id.partition("-")[0] for outcome in outcomes)
    for name in classes:
        yield name, [outcome for outcome in outcomes if outcome.fault.id.startswith(f"{name}-")]
