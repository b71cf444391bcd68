"""Trial repairs: the line of a fault is where a small change makes the failing check pass.

A check that holds a whole function or step against its rule knows that something is wrong, not where. So its functions
are changed in one place at a time, by the operators that also generate faults, and the check runs again. What passes is
the place, and the change says what is wrong with it. Only code objects of the running process are exchanged; no file is
written, and every function is put back.
"""

from __future__ import annotations

import ast
import gc
import linecache
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import chain
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from gradgate.checks.catalogue import page, rule
from gradgate.checks.first_fault import first_fault_only
from gradgate.checks.runner import check_trainer
from gradgate.core.finding import Location
from gradgate.core.origin import is_own_code
from gradgate.faults.exchange import Trial, exchanged, is_of
from gradgate.faults.ingredients import Pantry, gather
from gradgate.faults.operators import Function, Variant, functions, of_statement, scope_of, statements
from gradgate.faults.order import CHEAPEST, Relevance, bits, cost
from gradgate.subjects.contract import Stage, Subject

# They name where a gradient ends or a term is made, which may be the place that suffers.
_GUESSES = ("GG100", "GG201", "GG202", "GG203", "GG204", "GG206", "GG210", "GG406", "GG410")
_FORMULAS = ("GG501", "GG401", "GG403", "GG404")
_QUICK = _FORMULAS[:3]
_OF_A_STEP = ("GG100", "GG203", "GG204", "GG206", "GG208", "GG412")
_OF_FORMULAS = "2345"  # families whose faults may be a formula's
_BUILT = "06"  # families whose faults are made while a run is built, as often as in a step
_NEAR = 3  # lines
_BUSY = 6.0  # seconds by the clock for one of processor time, at most
_SHORTEST, _SLACK = 1.0, 4.0  # a trial may take that many times what the failing check took, and some seconds
_building: list[None] = []  # not empty while a run is being started


@dataclass(frozen=True, slots=True)
class Suspect:
    """A line whose change makes a failing check pass.

    Args:
        place: the line.
        variant: the change.
        trials: changes tried until then.
    """

    place: Location
    variant: Variant
    trials: int

    @property
    def message(self) -> str:
        """What was tried and what came of it."""
        tried = "the first change tried" if self.trials == 1 else f"{self.trials} changes tried"
        became = f"`{self.variant.after}`" if self.variant.after else "nothing"
        return f"the check passes with {became} here ({self.variant.operator}; {tried})"


def knows_its_line(code: str, culprit: Location | None) -> bool:
    """Whether a line that a check named needs no trial: it saw the write, the operation or the call itself."""
    return culprit is not None and code not in _GUESSES


def suspect(
    subject: Subject,
    code: str,
    stage: str | None,
    *,
    told: str = "",
    detail: Mapping[str, Any] | None = None,
    named: Location | None = None,
    seed: int = 0,
    baselines: Path | None = None,
    seconds: float = 20.0,
) -> Suspect | None:
    """Look for the line that a failing check is about.

    Args:
        subject: the trainer, loaded; `source` says which functions are its own.
        code: of the check that failed.
        stage: where it failed; None: on the subject as a whole.
        told: what it said.
        detail: of its finding, which the check may be asked for alone.
        named: a line that it named, which is tried first.
        seed: of the check.
        baselines: as the check had them.
        seconds: of processor time, its child processes included, after which no further change is tried; and six
            times as long by the clock, so that a busy machine tries as much as an idle one.

    Returns:
        The first change with which the check passes and none of the cheap checks fails that passed without it; None
        where none is found in time.
    """
    start, used = time.monotonic(), _processor()
    asked = _Asked(subject, code, stage, seed, baselines)
    with _lines_run(subject.source) as seen:  # whole: a change that repairs it is tried on everything
        asked.passes(_BUSY * seconds)
    limit = _SHORTEST + _SLACK * (time.monotonic() - start)
    asked = asked.cheapest(limit)
    with first_fault_only(detail) as first:
        asked.passes(limit)
    sound: list[tuple[str, str | None]] | None = None
    for number, trial in enumerate(_trials(seen, code, told, named), start=1):
        left = _BUSY * seconds - (time.monotonic() - start)
        if left <= 0 or _processor() - used > seconds:
            return None
        with exchanged(trial) as done:
            with first_fault_only(detail):
                repaired = done and not first.is_as_before() and asked.passes(min(limit, left))
            if not repaired or (detail and not asked.passes(limit)):  # then all that it looks at
                continue
        sound = asked.sound(limit) if sound is None else sound
        with exchanged(trial):
            if asked.are_sound(sound, limit):
                return _found(trial, number)
    return None


def _found(trial: Trial, number: int) -> Suspect:
    file, line = trial.function.__code__.co_filename, trial.variant.line
    source = linecache.getline(file, line).strip() or trial.variant.before.splitlines()[0]
    return Suspect(Location(file, line, trial.node.name, source), trial.variant, number)


@dataclass(frozen=True)
class _Asked:
    """The check that failed, and another that fails too and is cheaper.

    Args:
        subject: the trainer.
        code: of the check.
        stage: where it failed.
        seed: of the check.
        baselines: as the check had them.
        formula: code of a check of formulas alone that fails as well; empty: none.
    """

    subject: Subject
    code: str
    stage: str | None
    seed: int
    baselines: Path | None
    formula: str = ""

    def passes(self, timeout: float) -> bool:
        """Whether they pass on the subject as it is now."""
        if self.formula and not self._one(self.formula, None, timeout):
            return False
        return self._one(self.code, self.stage, timeout)

    def cheapest(self, timeout: float) -> _Asked:
        """With a check of formulas that fails as well: it asks in milliseconds what a step is asked in a second."""
        if self.stage is None or self.code[2] not in _OF_FORMULAS:
            return self
        with first_fault_only():
            failing = (code for code in _FORMULAS if self._status(code, None, timeout) in ("failed", "error"))
            return replace(self, formula=next(failing, ""))

    def sound(self, timeout: float) -> list[tuple[str, str | None]]:
        """Other quick checks that pass in spite of the fault; a change that makes one of them fail is no repair."""
        steps = [] if self.stage is None else [(code, self.stage) for code in _OF_A_STEP]
        formulas = [(code, None) for code in _QUICK] if self.code[2] in _OF_FORMULAS else []
        return [one for one in [*steps, *formulas] if self.are_sound([one], timeout)]

    def are_sound(self, checks: Sequence[tuple[str, str | None]], timeout: float) -> bool:
        """Whether these checks pass on the subject as it is now."""
        with first_fault_only():
            return all(self._one(code, stage, timeout) for code, stage in checks if code != self.code)

    def _one(self, code: str, stage: str | None, timeout: float) -> bool:
        return self._status(code, stage, timeout) == "passed"

    def _status(self, code: str, stage: str | None, timeout: float) -> str:
        verdict = check_trainer(
            _afresh(self.subject),
            select=[code],
            stages=None if stage is None else [stage],
            seed=self.seed,
            baselines=self.baselines,
            timeout=timeout,
        )
        return " ".join(result.status for result in verdict.results)


def _processor() -> float:
    """Seconds of processor time, those of processes that have ended included."""
    return sum(os.times()[:4])


def _afresh(subject: Subject) -> Subject:
    """The subject with stages that no check has met: what was recorded of the old ones is not of this source."""

    def other(stage: Stage) -> Stage:
        def start(*arguments: Any, **options: Any) -> Any:
            _building.append(None)
            try:
                return stage.start(*arguments, **options)
            finally:
                _building.pop()

        return replace(stage, start=start)

    return replace(subject, stages=[other(stage) for stage in subject.stages])


@dataclass
class _Seen:
    """What ran.

    Args:
        lines: by code.
        depths: how deep below the check each began.
        stepping: the codes that ran, at least once, while no run was being built.
    """

    lines: dict[CodeType, set[int]] = field(default_factory=dict)
    depths: dict[CodeType, int] = field(default_factory=dict)
    stepping: set[CodeType] = field(default_factory=set)


@contextmanager
def _lines_run(source: Path | None) -> Iterator[_Seen]:
    """Lines of own functions that run in the block."""
    seen = _Seen()
    own: dict[str, bool] = {}

    def trace(frame: FrameType, event: str, _held: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code.co_filename not in own:
            own[code.co_filename] = _is_under(code.co_filename, source)
        if not own[code.co_filename]:
            return None
        seen.lines.setdefault(code, set()).add(frame.f_lineno)
        if event == "call" and not _building:
            seen.stepping.add(code)
        if code not in seen.depths:
            caller = frame.f_back
            seen.depths[code] = 1 + seen.depths.get(caller.f_code, -1) if caller else 0
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def _is_under(file: str, source: Path | None) -> bool:
    """Whether a file is the trainer's; its adapter is not looked at where the source's folder is known."""
    return is_own_code(file, source) and (source is None or Path(file).resolve().is_relative_to(source.resolve()))


def _trials(seen: _Seen, code: str, told: str, named: Location | None) -> Iterator[Trial]:
    """Changes of what ran, the likeliest first; a statement's are made when its turn has come."""
    bodies = list(_bodies(seen.lines))
    found = gather([tree for tree, *_ in bodies])
    relevance = Relevance(
        (ast.unparse(one) for *_, node, _, _ in bodies for one in statements(node)), told, page(rule(code))
    )
    builds = code[2] in _BUILT
    queue: list[tuple[float, int, Any]] = []
    for _, path, node, function, lines in bodies:
        place = function.__code__
        pantry = Pantry(path, node, found, function.__globals__.keys())
        scope = scope_of(node)
        for statement in statements(node):
            near = named is not None and named.file == place.co_filename and _gap(named.line, statement) <= _NEAR
            late = place not in seen.stepping and not builds
            base = bits(ast.unparse(statement), relevance, seen.depths.get(place, 0), building=late, named=near)
            if _ran(statement, lines):
                heappush(queue, (base + CHEAPEST, len(queue), (statement, path, node, function, scope, pantry)))
    count = len(queue)
    while queue:
        base, _, one = heappop(queue)
        if isinstance(one, Trial):
            yield one
            continue
        statement, path, node, function, scope, pantry = one
        base -= CHEAPEST
        for variant in chain(of_statement(statement, scope), pantry.of_statement(statement)):
            count += 1
            heappush(queue, (base + cost(variant.operator, code), count, Trial(function, variant, node, path)))


def _bodies(
    ran: Mapping[CodeType, set[int]],
) -> Iterator[tuple[ast.Module, tuple[str, ...], Function, FunctionType, set[int]]]:
    """Functions that ran: their file's tree, path, source, live function and lines."""
    files = {code.co_filename for code in ran}
    # Not isinstance: it asks lazy objects of others for their class, and wakes them.
    live = [x for x in gc.get_objects() if type(x) is FunctionType and x.__code__.co_filename in files]
    for file in sorted(files):
        try:
            tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for path, node in functions(tree):
            inside = range(node.lineno, (node.end_lineno or node.lineno) + 1)  # of functions in it too
            lines = {
                line
                for code, seen in ran.items()
                if code.co_filename == file and code.co_firstlineno <= inside[-1]
                for line in seen
                if line in inside
            }
            running = [f for f in live if f.__code__.co_filename == file and is_of(f.__code__, node)]
            if lines and running:
                yield tree, path, node, running[0], lines


def _ran(statement: ast.stmt, lines: set[int]) -> bool:
    """Whether a statement ran; of one over several lines the trace may hold another than the first."""
    last = statement.end_lineno or statement.lineno
    if isinstance(statement, ast.If | ast.For | ast.While | ast.With | ast.Try):
        last = max(statement.lineno, statement.body[0].lineno - 1)
    return bool(lines & set(range(statement.lineno, last + 1)))


def _gap(line: int, statement: ast.stmt) -> int:
    return max(statement.lineno - line, line - (statement.end_lineno or statement.lineno), 0)
