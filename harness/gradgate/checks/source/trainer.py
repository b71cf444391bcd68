"""The trainer's own source, parsed, for the checks that read it: which files, and where something stands in them."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.scan.sources import UnreadableError, decode, discover, read_bytes
from gradgate.subjects.contract import Subject

Function = ast.FunctionDef | ast.AsyncFunctionDef
_NOT_THE_TRAINERS = ("gradgate", "gradgate_wmtp", "torch")
HALF = re.compile(r"autocast|bfloat16|float16|bf16|fp16|\.half\(|GradScaler|mixed_precision", re.IGNORECASE)
NONE = "no source of the trainer is known: give the subject `source=FOLDER`, or let the adapter import its modules"


@dataclass(frozen=True, eq=False)
class File:
    """One file of the trainer: none is equal to another but itself, by which what is made of several is kept.

    Args:
        path: as findings name it.
        tree: its syntax tree.
        lines: its text.
    """

    path: Path
    tree: ast.Module
    lines: tuple[str, ...]

    @functools.cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of its tree, breadth first: walked once for all checks."""
        return tuple(ast.walk(self.tree))

    @functools.cached_property
    def functions(self) -> tuple[tuple[Function, ast.ClassDef | None], ...]:
        """Every function with the class whose method it is: methods first."""
        classes = [node for node in self.nodes if isinstance(node, ast.ClassDef)]
        methods = [(inner, owner) for owner in classes for inner in owner.body if isinstance(inner, Function)]
        of_classes = {id(method) for method, _ in methods}
        others = [node for node in self.nodes if isinstance(node, Function) and id(node) not in of_classes]
        return (*methods, *((function, None) for function in others))

    def has(self, *texts: str) -> bool:
        """Whether one of these texts stands in the file: asked before its tree is walked."""
        return any(text in line for line in self.lines for text in texts)

    def at(self, node: Any, function: str = "") -> Location:
        """Where a node of this file stands."""
        text = self.lines[node.lineno - 1].strip() if node.lineno <= len(self.lines) else ""
        return Location(str(self.path), node.lineno, function, text)


def files_of(subject: Subject) -> tuple[File, ...]:
    """The files of a trainer: those of `subject.source`; without one, of the modules that its adapter imports.

    Modules that those import are the trainer's too, but not what is installed. The adapter itself is none of them, also
    where it lies in that folder.
    """
    return tuple(
        file for path in paths_of(subject) if not path.name.startswith("test_") and (file := _read(path)) is not None
    )


def read_file_by_file(subject: Subject, find: Callable[[File], Iterable[Finding]], what: str) -> Outcome:
    """What `find` finds in each file of a trainer, none of it allowed.

    Args:
        subject: the trainer.
        find: reads one file.
        what: the findings' name in what is measured.
    """
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(chain.from_iterable(find(file) for file in files))
    return Outcome(findings, {what: len(findings)}, {what: 0})


def nodes_in(body: Iterable[ast.AST], *closed: type[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a body, breadth first, without those inside of a node of a closed kind; that one itself is given."""
    waiting = deque(body)
    while waiting:
        node = waiting.popleft()
        yield node
        if not isinstance(node, closed):
            waiting += ast.iter_child_nodes(node)


def calls_in(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call of a file, or of a part of it."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def called_name(node: ast.AST) -> str:
    """The last name of what a node calls: `step` of `self.optimizer.step()`; empty: it calls nothing, or no name."""
    return dotted(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def last_attr(call: ast.Call) -> str:
    """The name of the method or of the function that is called, whatever it is called of."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else dotted(call.func)


def given_by(call: ast.Call) -> list[ast.expr]:
    """What a call gives, by position and by name."""
    return [*call.args, *(word.value for word in call.keywords)]


def given_for(call: ast.Call, name: str, at: int) -> ast.expr | None:
    """What a call gives an argument, by its name or else at its place; None: nothing."""
    named = (word.value for word in call.keywords if word.arg == name)
    return next(named, None) or next(iter(call.args[at : at + 1]), None)


def names_in(node: ast.AST) -> set[str]:
    """The names and dotted names that an expression reads, as they are written."""
    return {ast.unparse(part) for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)}


def runs_in_16_bits(subject: Subject) -> bool:
    """Whether a trainer may run in 16 bits: it declares such a precision, or its source names one, or is not known."""
    if any(stage.precisions for stage in subject.stages):
        return True
    files = files_of(subject)
    return not files or any(HALF.search(line) for file in files for line in file.lines)


def dotted(node: ast.AST) -> str:
    """`torch.save` of the expression `torch.save`, and of `state["best"]` `state.best`: settings and state are kept in
    objects here and in dictionaries there. What is no chain of names is empty."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        before = dotted(node.value)
        return f"{before}.{node.slice.value}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def paths_of(subject: Subject) -> list[Path]:
    """The files of a trainer, as `files_of` has them, not read."""
    adapters = [module for stage in subject.stages if (module := _module_of(stage.start)) is not None]
    if subject.source is not None:
        own = {Path(file).resolve() for module in adapters if (file := getattr(module, "__file__", None))}
        found_there = sorted(discover([Path(subject.source)], {}))
        return [path for path in found_there if path.resolve() not in own] or found_there
    return _imported_paths(adapters)


def _imported_paths(adapters: list[ModuleType]) -> list[Path]:
    """The files of the modules that adapters import, and of those that these import."""
    found: dict[str, ModuleType] = {}
    waiting = [module for adapter in adapters for module in _imported(adapter)]
    while waiting:
        module = waiting.pop()
        if module.__name__ not in found:
            found[module.__name__] = module
            waiting += _imported(module)
    names = {adapter.__name__ for adapter in adapters}
    return sorted({Path(str(module.__file__)) for name, module in found.items() if name not in names})


def _module_of(start: Any) -> ModuleType | None:
    while isinstance(start, functools.partial):
        start = start.func
    return inspect.getmodule(start)


def _imported(module: ModuleType) -> list[ModuleType]:
    """The modules of nobody's library that a module's globals are, or come from."""
    names = {
        value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        for value in vars(module).values()
    }
    return [sys.modules[name] for name in names if isinstance(name, str) and _is_own(sys.modules.get(name))]


def _is_own(module: ModuleType | None) -> bool:
    file = getattr(module, "__file__", None)
    if module is None or not file or not str(file).endswith(".py"):
        return False
    if module.__name__.partition(".")[0] in _NOT_THE_TRAINERS or "site-packages" in Path(file).parts:
        return False
    return not Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def _read(path: Path) -> File | None:
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except OSError:
        return None


def forget() -> None:
    """Let go of the files that were read: for those who read thousands, one after the other."""
    _parsed.cache_clear()


@functools.lru_cache(maxsize=1024)
def _parsed(path: Path, _mtime_ns: int) -> File | None:
    """A file as it was at that time; three checks read the same ones."""
    try:
        text = decode(path, read_bytes(path)).text
        return File(path, ast.parse(text), tuple(text.splitlines()))
    except (UnreadableError, SyntaxError, ValueError, RecursionError):
        return None
