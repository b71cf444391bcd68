"""Own lines: the trainer's lines one after the other while a piece of it runs, for checks that ask which one did it.

A check that has failed runs the failing piece once more under this trace, so that a run that passes pays nothing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

from gradgate.checks.isolation import isolated
from gradgate.checks.naming import are_named
from gradgate.core.finding import Finding, Location
from gradgate.core.frames import write_locals
from gradgate.core.origin import at_line, is_trainers_code

Line = tuple[CodeType, int]  # of a function, and its number
Found = TypeVar("Found")


class OwnLines:
    """A trace of the trainer's own lines; a subclass says what it looks at.

    Args:
        source: the subject's own folder; None: all code that is neither installed nor this library's.

    Attributes:
        frames: the own functions that run, outermost first.
        at: the line that each of them is at.
        count: lines that have run so far.
    """

    within = True  # whether parts of a line count; without, what a line calls for the first time costs little

    def __init__(self, source: Path | None) -> None:
        self.source = source
        self.frames: list[FrameType] = []
        self.at: list[int] = []
        self.count = 0

    def behind(self, line: Line) -> None:
        """A line, or a part of one between two calls, has run; `frames` and `at` are still those of it."""

    def entering(self, frame: FrameType) -> None:
        """A Python function begins, whoever's it is; `frames` and `at` are its caller's."""

    def leaving(self, frame: FrameType, value: Any) -> None:
        """An own function ends, or a generator of it gives a value; `frames` and `at` are its caller's."""

    def now(self) -> Line | None:
        """The line that runs."""
        return (self.frames[-1].f_code, self.at[-1]) if self.frames else None

    def way(self) -> list[Line]:
        """The lines that lead to what runs, outermost first."""
        return [(frame.f_code, line) for frame, line in zip(self.frames, self.at, strict=True)]

    @contextmanager
    def on(self) -> Iterator[None]:
        """Trace the block."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, value: Any) -> Callable[..., Any] | None:
        if event == "call":
            if self.frames and self.within:
                self._ran()
            self.entering(frame)
            if not self.is_own(frame.f_code):
                return None
            self.frames.append(frame)
            self.at.append(frame.f_lineno)
            return self._trace
        if not self.frames or self.frames[-1] is not frame:
            return self._trace  # a generator that is closed from elsewhere
        if event == "line":
            self._ran()
            self.at[-1] = frame.f_lineno
            self.count += 1
        elif event == "return":
            self._ran()
            self.frames.pop()
            self.at.pop()
            self.leaving(frame, value)
        return self._trace

    def _ran(self) -> None:
        self.behind((self.frames[-1].f_code, self.at[-1]))

    def is_own(self, code: CodeType) -> bool:
        """Whether a function is the trainer's."""
        return is_trainers_code(code.co_filename, self.source)


def place(line: Line | None) -> Location | None:
    """A line as findings name it."""
    return None if line is None else at_line(*line)


def named(finding: Finding, find: Callable[[], Line | Location | None], seed: int) -> Finding:
    """A finding with the line that `find` names, where it has none yet.

    Args:
        finding: of a check that knows what is wrong.
        find: runs the failing piece once more, and says where; as for `searched`.
        seed: of the check.
    """
    found: Line | Location | None = None if finding.culprit is not None else searched(find, seed)
    return finding if found is None else replace(finding, culprit=place(found) if isinstance(found, tuple) else found)


def searched(find: Callable[[], Found], seed: int) -> Found | None:
    """What a search finds; None where it fails, and while changes of the trainer are tried.

    It runs the trainer's own code, which may raise anything. Generators and settings are put back behind it.
    """
    if are_named():
        with suppress(Exception, SystemExit), isolated(seed, "line"):
            return find()
    return None


def arguments_of(code: CodeType) -> tuple[str, ...]:
    """The names of a function's arguments, those by name alone too."""
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def argument_at(caller: Line, code: CodeType, name: str) -> Line | None:
    """The line of what a call gives for an argument; None where it is not written there.

    Args:
        caller: the line that calls.
        code: of the function that is called.
        name: of its argument.
    """
    arguments = arguments_of(code)
    position = arguments.index(name) - (arguments[0] in ("self", "cls"))
    statement = statement_at(caller)
    for node in ast.walk(statement) if statement is not None else ():
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg == name:
                return caller[0], keyword.value.lineno
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if code.co_name in (called, "__init__") and position < len(node.args):
            return caller[0], node.args[position].lineno
    return None


def keyword_at(caller: Line, name: str) -> Line | None:
    """The line of what a statement's calls give by a name; None where they give nothing so, or several do."""
    statement = statement_at(caller)
    calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call)) if statement is not None else ()
    given = [keyword.value.lineno for call in calls for keyword in call.keywords if keyword.arg == name]
    return (caller[0], given[0]) if len(given) == 1 else None


def own_frames(frame: FrameType | None, source: Path | None) -> list[FrameType]:
    """The trainer's own frames from one outwards, innermost first."""
    found = []
    while frame is not None:
        if is_trainers_code(frame.f_code.co_filename, source):
            found.append(frame)
        frame = frame.f_back
    return found


def is_torch(frame: FrameType, *names: str) -> bool:
    """Whether a frame is that of a function of torch with one of these names."""
    code = frame.f_code
    return code.co_name in names and "torch" in Path(code.co_filename).parts


def statement_at(line: Line) -> ast.stmt | None:
    """The innermost statement that a line is of; None where there is no source."""
    with suppress(OSError, SyntaxError, UnicodeDecodeError):
        return _statements(line[0].co_filename).get(line[1])
    return None


@lru_cache(maxsize=64)
def _statements(file: str) -> dict[int, ast.stmt]:
    """By line the innermost statement; outer ones come first in the walk."""
    return {
        number: node
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.stmt)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def heads_of(line: Line) -> Sequence[ast.AST]:
    """What a line computes itself: its statement, of a compound one the head without the body."""
    statement = statement_at(line)
    if statement is None:
        return ()
    if isinstance(statement, ast.If | ast.While):
        return [statement.test]
    if isinstance(statement, ast.For):
        return [statement.iter, statement.target]
    if isinstance(statement, ast.With):
        return list(statement.items)
    if isinstance(statement, ast.Try | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return ()
    return [statement]


def value_of(frame: FrameType, name: str) -> Any:
    """What a name of a function's locals stands for, as `names_at` gives it; None where it stands for nothing."""
    root, *rest = name.split(".")
    value = frame.f_locals.get(root)
    with suppress(Exception):  # an attribute may be a property, which may raise anything
        for part in rest:
            value = vars(value)[part]
        return value
    return None


def put(frame: FrameType, name: str, value: Any) -> None:
    """Give a name of a function's locals another value while it runs; `names_at` has such names."""
    root, *rest = name.split(".")
    if rest:
        owner = frame.f_locals[root]
        object.__setattr__(owner, rest[-1], value)
        return
    write_locals(frame, {root: value})


@lru_cache(maxsize=4096)
def names_at(line: Line) -> tuple[str, ...]:
    """Locals that a line mentions, and attributes that it writes, as `self.total`."""
    found: dict[str, None] = {}
    for head in heads_of(line):
        for node in ast.walk(head):
            if isinstance(node, ast.Name):
                found[node.id] = None
            elif (
                isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
            ):
                found[f"{node.value.id}.{node.attr}"] = None
    return tuple(found)
