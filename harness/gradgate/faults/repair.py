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
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from gradgate.checks.formulas import first_fault_only
from gradgate.checks.runner import check_trainer
from gradgate.core.finding import Location
from gradgate.core.origin import is_own_code
from gradgate.faults.operators import Function, Variant, functions, variants
from gradgate.subjects.contract import Stage, Subject

LIKELY = (  # operators that undo what training code suffers most, in the order in which they are tried
    "drop-clamp", "drop-roll", "drop-detach", "drop-data", "swap-axis", "swap-operator", "swap-comparison",
    "invert-mask", "use-unused", "sum-to-mean", "mean-to-sum", "abs-to-square", "square-to-abs", "drop-operand",
    "add-detach", "add-mask", "flip-sign", "mask-value", "guard-divisor", "one-branch", "skip-statement", "off-by-one",
)  # fmt: skip
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


@dataclass(frozen=True, slots=True)
class _Trial:
    function: FunctionType
    variant: Variant
    node: Function
    path: tuple[str, ...]


def suspect(
    subject: Subject,
    code: str,
    stage: str | None,
    *,
    seed: int = 0,
    baselines: Path | None = None,
    seconds: float = 20.0,
) -> Suspect | None:
    """Look for the line that a failing check is about.

    Args:
        subject: the trainer, loaded; `source` says which functions are its own.
        code: of the check that failed.
        stage: where it failed; None: on the subject as a whole.
        seed: of the check.
        baselines: as the check had them.
        seconds: after which no further change is tried.

    Returns:
        The first change with which the check passes; None where none is found in time.
    """

    def passes(timeout: float) -> bool:
        verdict = check_trainer(
            _afresh(subject),
            select=[code],
            stages=None if stage is None else [stage],
            seed=seed,
            baselines=baselines,
            timeout=timeout,
        )
        return [result.status for result in verdict.results] == ["passed"]

    start = time.monotonic()
    with _lines_run(subject.source) as (ran, depths):  # whole: a change that repairs it is tried on everything
        passes(seconds)
    limit = _SHORTEST + _SLACK * (time.monotonic() - start)
    start = time.monotonic()
    for number, trial in enumerate(_trials(ran, depths), start=1):
        left = seconds - (time.monotonic() - start)
        if left <= 0:
            return None
        with _exchanged(trial) as done, first_fault_only():
            if done and passes(min(limit, left)):
                file = trial.function.__code__.co_filename
                line = trial.variant.line
                source = linecache.getline(file, line).strip() or trial.variant.before.splitlines()[0]
                place = Location(file, line, trial.node.name, source)
                return Suspect(place, trial.variant, number)
    return None


def _afresh(subject: Subject) -> Subject:
    """The subject with stages that no check has met: what was recorded of the old ones is not of this source."""

    def other(stage: Stage) -> Stage:
        def start(*arguments: Any, **options: Any) -> Any:
            return stage.start(*arguments, **options)

        return replace(stage, start=start)

    return replace(subject, stages=[other(stage) for stage in subject.stages])


@contextmanager
def _lines_run(source: Path | None) -> Iterator[tuple[dict[CodeType, set[int]], dict[CodeType, int]]]:
    """Lines of own functions that run in the block, by their code, and how deep below the check each begins."""
    ran: dict[CodeType, set[int]] = {}
    depths: dict[CodeType, int] = {}
    own: dict[str, bool] = {}

    def trace(frame: FrameType, _event: str, _held: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code.co_filename not in own:
            own[code.co_filename] = _is_under(code.co_filename, source)
        if not own[code.co_filename]:
            return None
        ran.setdefault(code, set()).add(frame.f_lineno)
        if code not in depths:
            caller = frame.f_back
            depths[code] = 1 + depths.get(caller.f_code, -1) if caller else 0
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield ran, depths
    finally:
        sys.settrace(before)


def _is_under(file: str, source: Path | None) -> bool:
    """Whether a file is the trainer's; its adapter is not looked at where the source's folder is known."""
    return is_own_code(file, source) and (source is None or Path(file).resolve().is_relative_to(source.resolve()))


def _trials(ran: Mapping[CodeType, set[int]], depths: Mapping[CodeType, int]) -> Iterator[_Trial]:
    """Changes of what ran: likely operators first, and among them what the check calls before what that calls."""
    files = {code.co_filename for code in ran}
    # Not isinstance: it asks lazy objects of others for their class, and wakes them.
    live = [x for x in gc.get_objects() if type(x) is FunctionType and x.__code__.co_filename in files]
    made: list[tuple[tuple[bool, int, int, int], _Trial]] = []
    for file in sorted(files):
        try:
            tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for path, node in functions(tree):
            lines = {
                line for code, seen in ran.items() if code.co_filename == file and _is(code, node) for line in seen
            }
            running = [f for f in live if f.__code__.co_filename == file and _is(f.__code__, node)]
            if not lines or not running:
                continue
            for index, variant in enumerate(variants(node)):
                if variant.line in lines or _statement_ran(variant, node, lines):
                    rank = LIKELY.index(variant.operator) if variant.operator in LIKELY else len(LIKELY)
                    order = (rank == len(LIKELY), depths.get(running[0].__code__, 0), rank, index)
                    made.append((order, _Trial(running[0], variant, node, path)))
    for _, trial in sorted(made, key=lambda one: one[0]):
        yield trial


def _is(code: CodeType, node: Function) -> bool:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return code.co_name == node.name and code.co_firstlineno == first


def _statement_ran(variant: Variant, node: Function, lines: set[int]) -> bool:
    """A statement over several lines may be traced at another one of them."""
    return any(
        isinstance(part, ast.stmt)
        and part is not node
        and part.lineno <= variant.line <= (part.end_lineno or part.lineno)
        and not isinstance(part, ast.If | ast.For | ast.While | ast.With | ast.Try)
        and lines & set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
        for part in ast.walk(node)
    )


@contextmanager
def _exchanged(trial: _Trial) -> Iterator[bool]:
    """The function with the change in the block; whether it could be made."""
    code = _changed(trial)
    before = trial.function.__code__
    try:
        if code is not None:
            trial.function.__code__ = code
    except ValueError:  # other free variables
        code = None
    try:
        yield code is not None
    finally:
        trial.function.__code__ = before


def _changed(trial: _Trial) -> CodeType | None:
    file = trial.function.__code__.co_filename
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    node = next(node for path, node in functions(tree) if path == trial.path and node.lineno == trial.node.lineno)
    try:
        after = ast.parse(trial.variant.after or "pass").body
    except SyntaxError:
        return None
    if not _splice(node, trial.variant, after):
        return None
    try:
        module = compile(ast.fix_missing_locations(tree), file, "exec")
    except (SyntaxError, ValueError):
        return None
    return next((code for code in _codes(module) if _is(code, node)), None)


def _splice(node: Function, variant: Variant, after: Sequence[ast.stmt]) -> bool:
    for holder in ast.walk(node):
        for body in (getattr(holder, name, None) for name in ("body", "orelse", "finalbody")):
            for index, statement in enumerate(body if isinstance(body, list) else ()):
                ends = statement.end_lineno or statement.lineno
                if statement.lineno <= variant.line <= ends and ast.unparse(statement) == variant.before:
                    assert isinstance(body, list)  # noqa: S101 - it was walked
                    body[index : index + 1] = [ast.copy_location(new, statement) for new in after]
                    return True
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)
