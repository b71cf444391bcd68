"""Planting: every fault into its own copy of the source, checks on each, and a score of what was noticed."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gradgate.checks import catalogue as rules
from gradgate.core.errors import GradgateError
from gradgate.faults import pool
from gradgate.faults.catalogue import Fault, Planted, plant
from gradgate.faults.edit import EditError
from gradgate.faults.worker import Notice, Report, Task

Status = Literal["killed", "survived", "equivalent", "broken", "hung", "crashed", "quiet", "alarm"]
_IGNORED = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a fault.

    Args:
        fault: which.
        status: `killed`, `survived`, `equivalent` (not noticed, and the witness sees no effect), `broken` (does not
            build), `hung`, `crashed`; of a clean edit `quiet` or `alarm`.
        by: the checks that failed.
        right_family: whether one of them is of an expected family.
        line: the best naming of a line: `exact`, `near`, `elsewhere`, `none`.
        seconds: to the first failure.
        reason: why it is broken, or what a survivor needs.
    """

    fault: Fault
    status: Status
    by: tuple[Notice, ...] = ()
    right_family: bool = False
    line: str = "none"
    seconds: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class Campaign:
    """One run over many faults.

    Args:
        target: as for `gradgate verify`.
        root: the folder on the import path that holds the source.
        jobs: processes at a time.
        timeout: seconds for each.
        seed: of the checks.
    """

    target: str
    root: Path
    jobs: int = 1
    timeout: float = 180.0
    seed: int = 0
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
        planted = _plant_all(faults, self.root)
        _load_checks()
        with tempfile.TemporaryDirectory(prefix="gradgate-faults-", ignore_cleanup_errors=True) as folder:
            self._folder = Path(folder).resolve()
            seen, red = self._before(faults)
            tasks = [self._task(i, fault, planted[i], seen, red) for i, fault in enumerate(faults)]
            outcomes: dict[int, Outcome] = {}
            for i, report in pool.run(tasks, jobs=self.jobs, timeout=self.timeout):
                outcomes[i] = _outcome(faults[i], report)
                shutil.rmtree(tasks[i].log.parent, ignore_errors=True)
                on_outcome(outcomes[i])
        return [outcomes[i] for i in range(len(faults))]

    def _before(self, faults: Sequence[Fault]) -> tuple[dict[str, str], set[str]]:
        """Drive the unedited source.

        Returns:
            For each witness the file with what it sees, and the codes that are red already: they can notice nothing.
        """
        witnesses = sorted({fault.witness for fault in faults if not fault.clean})
        wanted = {code for fault in faults for code in _built(fault.codes)}
        codes = sorted(wanted | set(_everything()))
        parts = [tuple(codes[i :: self.jobs]) for i in range(self.jobs)]
        tops = sorted({_top(edit.file) for fault in faults for edit in fault.edits})
        seen = {witness: str(self._folder / f"seen-{number}") for number, witness in enumerate(witnesses)}
        tasks: list[Task] = []
        for witness, part in [*((w, ()) for w in witnesses), *(("", p) for p in parts if p)]:
            copy = self._copy(f"before-{len(tasks)}", tops, {})
            log = copy.parent / "log"
            kept = seen.get(witness, "")
            tasks.append(Task(self.target, copy, self.root, log, part, (), False, witness, kept, seed=self.seed))
        reports = pool.run(tasks, jobs=self.jobs, timeout=4 * self.timeout)
        return seen, {code for _, report in reports for code in _red(report, wanted)}

    def _task(self, number: int, fault: Fault, planted: Planted, seen: Mapping[str, str], red: Collection[str]) -> Task:
        copy = self._copy(str(number), sorted({_top(edit.file) for edit in fault.edits}), planted.files)
        log = copy.parent / "log"
        first = _built(fault.codes)
        rest = tuple(code for code in _everything() if code not in {*first, *red})
        task = Task(self.target, copy, self.root, log, lines=planted.lines, seed=self.seed)
        if fault.clean:
            return replace(task, codes=tuple(code for code in rest if not _trains(code)), exit_first=False)
        return replace(task, codes=first, rest=rest, witness=fault.witness, seen=seen[fault.witness])

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


def _plant_all(faults: Sequence[Fault], root: Path) -> list[Planted]:
    planted, stale = [], []
    for fault in faults:
        try:
            planted.append(plant(fault, root))
        except EditError as error:
            stale.append(str(error))
    if stale:
        raise EditError("\n".join([f"{len(stale)} of {len(faults)} faults do not fit the source any more:", *stale]))
    return planted


def _red(report: Report | str, wanted: Collection[str]) -> set[str]:
    """Codes that fail on the unedited source.

    Raises:
        GradgateError: it does not build, or one of them is to notice a fault.
    """
    if isinstance(report, str) or report.broken:
        raise GradgateError(f"the unedited source: {report if isinstance(report, str) else report.broken}")
    for notice in report.notices:
        if notice.code in wanted:
            raise GradgateError(f"the unedited source fails {notice.code}, before any fault: {notice.message}")
    return {notice.code for notice in report.notices}


def _outcome(fault: Fault, report: Report | str) -> Outcome:
    if isinstance(report, str):
        return Outcome(fault, "hung" if report == "hung" else "crashed", reason=report)
    by = tuple(report.notices)
    if fault.clean:
        status: Status = "broken" if report.broken else "alarm" if by else "quiet"
        return Outcome(fault, status, by, seconds=report.seconds, reason=report.broken)
    if by:
        families = {code[2] for code in fault.codes}
        line = min((notice.line for notice in by), key=("exact", "near", "elsewhere", "none").index)
        return Outcome(fault, "killed", by, any(n.code[2] in families for n in by), line, report.seconds)
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
