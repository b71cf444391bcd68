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
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from gradgate.checks.catalogue import page, rule
from gradgate.checks.first_fault import first_fault_only
from gradgate.core.finding import Location
from gradgate.faults.asked import Asked, Sound
from gradgate.faults.exchange import Trial, exchanged, is_of
from gradgate.faults.ingredients import Pantry, gather
from gradgate.faults.lines import Seen, lines_run
from gradgate.faults.operators import Function, Variant, functions, of_statement, scope_of, statements
from gradgate.faults.order import CHEAPEST, Relevance, bits, cost
from gradgate.subjects.contract import Subject

# They name where a gradient ends or a term is made, which may be the place that suffers.
_GUESSES = ("GG100", "GG201", "GG202", "GG203", "GG204", "GG206", "GG210", "GG405", "GG406", "GG409", "GG410")
_BUILT = "06"  # families whose faults are made while a run is built, as often as in a step
# Of checks of state: what takes something away. Others satisfy such a check by ending the training, or the exchange.
_OF_STATE = ("keep-part", "skip-statement")
_NEAR = 3  # lines
_BUSY = 6.0  # seconds by the clock for one of processor time, at most
_SHORTEST, _SLACK = 1.0, 4.0  # a trial may take that many times what the failing check took, and some seconds


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
    start = time.monotonic()
    asked = Asked(subject, code, stage, seed, baselines)
    with lines_run(subject.source) as seen:  # whole: a change that repairs it is tried on everything
        asked.passes(_BUSY * seconds)
    limit = _SHORTEST + _SLACK * (time.monotonic() - start)
    asked = asked.cheapest(limit)
    start, used = time.monotonic(), _processor()
    with first_fault_only(detail) as first:
        asked.passes(limit)
    before: Sound | None = None
    for number, trial in enumerate(_trials(seen, code, told, named), start=1):
        left = _BUSY * seconds - (time.monotonic() - start)
        if left <= 0 or _processor() - used > seconds:
            return None
        with exchanged(trial) as done:
            with first_fault_only(detail):
                repaired = done and not first.is_as_before() and asked.passes(min(limit, left))
            if not repaired or (detail and not asked.passes(limit)):  # then all that it looks at
                continue
        before = asked.sound(limit) if before is None else before
        with exchanged(trial):
            if asked.is_as_sound(before, limit):
                return _found(trial, number)
    return None


def _found(trial: Trial, number: int) -> Suspect:
    file, line = trial.function.__code__.co_filename, trial.variant.line
    source = linecache.getline(file, line).strip() or trial.variant.before.splitlines()[0]
    return Suspect(Location(file, line, trial.node.name, source), trial.variant, number)


def _processor() -> float:
    """Seconds of processor time, those of processes that have ended included."""
    return sum(os.times()[:4])


def _trials(seen: Seen, code: str, told: str, named: Location | None) -> Iterator[Trial]:
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
            if code[2] == "6" and variant.operator not in _OF_STATE:
                continue
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
