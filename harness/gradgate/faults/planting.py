"""Planting: every fault into its own copy of the source, checks on each, and a score of what was noticed."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from gradgate.checks import catalogue as rules
from gradgate.core.errors import GradgateError
from gradgate.core.scratch import scratch
from gradgate.core.workers import Lost, run
from gradgate.faults.catalogue import Fault, Planted, plant
from gradgate.faults.desk import Codes, Desk, codes_of
from gradgate.faults.edit import EditError
from gradgate.faults.innocent import beside
from gradgate.faults.worker import Notice, Report, Task, work

Status = Literal["killed", "survived", "equivalent", "broken", "hung", "crashed", "quiet", "alarm"]
What = TypeVar("What")
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
        desk, named = Desk(len(faults)), {code for fault in faults for code in _built(fault.codes)}
        with (
            scratch(),
            tempfile.TemporaryDirectory(prefix="gradgate-faults-", ignore_cleanup_errors=True) as folder,
        ):
            self._folder = Path(folder).resolve()
            seen = self._before(faults)
            while desk.is_open():
                for what, report in self._drive(lambda: self._next(desk, faults, planted, seen)):
                    known = desk.add(what, report) if isinstance(what, int) else desk.settle(what, _red(report, named))
                    for i in known:
                        on_outcome(_outcome(faults[i], desk.reports[i]))
        return [_outcome(fault, desk.reports[i]) for i, fault in enumerate(faults)]

    def _next(
        self, desk: Desk, faults: Sequence[Fault], planted: Sequence[Planted], seen: Mapping[str, str]
    ) -> tuple[int | Codes, Task] | None:
        what = desk.next()
        if isinstance(what, tuple):
            return what, self._unedited(what[0], faults, codes=what, exit_first=False)
        return None if what is None else (what, self._task(what, faults[what], planted[what], seen, desk.red))

    def _drive(self, following: Callable[[], tuple[What, Task] | None]) -> Iterator[tuple[What, Report | Lost]]:
        """Each task in a process of its own, as many at a time as there are jobs; its copy goes as it ends."""
        handed = []

        def tasks() -> Iterator[list[Task]]:
            while (one := following()) is not None:
                handed.append(one)
                yield [one[1]]

        for number, report in run(tasks(), work, jobs=self.jobs, timeout=_limit, fresh=True):
            what, task = handed[number]
            shutil.rmtree(task.log.parent, ignore_errors=True)
            yield what, report

    def _before(self, faults: Sequence[Fault]) -> dict[str, str]:
        """Drive the unedited source: what it counts, and what each witness sees.

        Returns:
            For each witness the file with what it sees.

        Raises:
            GradgateError: it does not build.
        """
        witnesses = sorted({fault.witness for fault in faults if not fault.clean})
        seen = {witness: str(self._folder / f"seen-{number}") for number, witness in enumerate(witnesses)}
        self._stored.mkdir()
        if not seen:
            return seen
        counting = self._unedited("counts", faults, store=str(self._stored))
        tasks = iter([("", counting), ("", self._unedited("witnesses", faults, seen=seen))])
        for _, report in self._drive(lambda: next(tasks, None)):
            _sound(report)
        return seen

    def _unedited(self, name: str, faults: Sequence[Fault], **what: Any) -> Task:
        copy = self._copy(f"before-{name}", sorted({_top(edit.file) for fault in faults for edit in fault.edits}), {})
        timeout = 4 * self.timeout  # a check that finds nothing runs to its end
        return Task(self.target, copy, self.root, copy.parent / "log", seed=self.seed, timeout=timeout, **what)

    @property
    def _stored(self) -> Path:
        """Counts of the unedited source, which those of an edited one are held against."""
        return self._folder / "stored"

    def _task(self, number: int, fault: Fault, planted: Planted, seen: Mapping[str, str], red: Collection[str]) -> Task:
        """The checks that are named for a fault, and the others for what they leave; for a clean edit those that it
        names, or all that do not train whole runs. `red` are left out."""
        task = self._edited(f"{number}-{len(red)}", fault, planted)
        task = replace(task, switched=tuple(code for code in _everything() if code not in red and _is_made_again(code)))
        named = tuple(code for code in _built(fault.codes) if code not in red)
        others = tuple(code for code in _everything() if code not in {*named, *red})
        if fault.clean:
            # It may cost more: what a stored count or a declared cost rightly tells is no fault.
            quick = tuple(code for code in named or others if not _trains(code) and code[2] != "7")
            task = replace(task, codes=quick, exit_first=False, baselines="", locate=0.0, changed=())
            return replace(task, switched=()) if named else task
        return replace(task, codes=named, others=others, seen={fault.witness: seen[fault.witness]})

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


def _red(report: Report | Lost, named: Collection[str]) -> set[str]:
    """Codes that fail on the unedited source.

    Raises:
        GradgateError: one of them is named for a fault; or as `_sound`.
    """
    for notice in _sound(report).notices:
        if notice.code in named:
            raise GradgateError(f"the unedited source fails {notice.code}, before any fault: {notice.message}")
    return codes_of(report)


def _limit(task: Task) -> float:
    return task.timeout


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
