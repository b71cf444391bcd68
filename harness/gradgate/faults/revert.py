"""Trial reverts: the lines of a change that a failing check is about.

Where the base of a change is known, its text is the best repair there is. Each place that differs gets the base's lines
back, in memory, and the check runs again: what makes it pass is the place. Halving finds it among many in a few runs.
Code objects of the running process are exchanged, and what stands at a module's top level is run there; no file is
written, and all of it is put back.
"""

from __future__ import annotations

import ast
import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from gradgate.core.finding import Location
from gradgate.faults.exchange import codes_in, forgotten, memories
from gradgate.faults.operators import Function, functions

_AT_TOP = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef)
_LONGEST = 100  # characters of the base's line that a message shows


@dataclass(frozen=True, slots=True)
class Hunk:
    """One place in which a file differs from its base.

    Args:
        file: of the working tree.
        start: first line that differs, from 0.
        stop: the line behind the last; `start` where lines were only taken out.
        before: the base's lines.
    """

    file: Path
    start: int
    stop: int
    before: tuple[str, ...]

    def holds(self, place: Location) -> bool:
        """Whether a line is one of it, or next to where lines were taken out."""
        first, last = (self.start + 1, self.stop) if self.stop > self.start else (self.start, self.start + 1)
        return first <= place.line <= last and Path(place.file).resolve() == self.file.resolve()


class _NoTimeError(Exception):
    """There is no time left for another trial."""


@dataclass(frozen=True, slots=True)
class Guilty:
    """The place whose old text makes a failing check pass.

    Args:
        place: its first line.
        message: what was tried and what came of it.
    """

    place: Location
    message: str


def hunks(texts: Mapping[Path, str]) -> list[Hunk]:
    """The places in which files differ from their base, comments and blank lines aside.

    Args:
        texts: file -> its text in the base.
    """
    found = []
    for file, base in texts.items():
        head, old = file.read_text(encoding="utf-8").splitlines(), base.splitlines()
        for tag, first, last, start, stop in SequenceMatcher(None, old, head, autojunk=False).get_opcodes():
            if tag != "equal" and any(map(_says_something, [*old[first:last], *head[start:stop]])):
                found.append(Hunk(file, start, stop, tuple(old[first:last])))
    return found


def guilty(found: Sequence[Hunk], passes: Callable[[], bool | None], ref: str) -> Guilty | None:
    """The place that a failing check is about.

    Args:
        found: all places that differ.
        passes: run the check; whether it passes, or None where there is no time left.
        ref: the base's name, for the message.

    Returns:
        None where the check fails with the base's text too, as far as that can be brought back, or where time ran out.
    """

    def passes_without(some: Sequence[Hunk]) -> bool:
        with reverted(some) as done:
            outcome = done and passes()
        if outcome is None:
            raise _NoTimeError
        return outcome

    try:
        if not found or not passes_without(found):
            return None
        return _told(_smallest(list(found), passes_without), ref)
    except _NoTimeError:  # what is left then holds the place, and is no place
        return None


def _smallest(left: list[Hunk], passes_without: Callable[[Sequence[Hunk]], bool]) -> list[Hunk]:
    """A part from which nothing can be left out. Zeller and Hildebrandt 2002, Simplifying and isolating, section 3."""
    count = 2
    while len(left) > 1:
        size = -(-len(left) // count)
        parts = [left[at : at + size] for at in range(0, len(left), size)]
        others = [[hunk for other in parts if other is not part for hunk in other] for part in parts]
        one = next((part for part in parts if passes_without(part)), None)
        rest = None if one or len(parts) == 2 else next((some for some in others if passes_without(some)), None)
        if one or rest:
            left, count = one or rest or left, 2 if one else max(count - 1, 2)
        elif size == 1:
            return left
        else:
            count = min(2 * count, len(left))
    return left


@contextmanager
def reverted(some: Sequence[Hunk]) -> Iterator[bool]:
    """These places with the base's text in the block; whether that is Python and changes what runs."""
    undo: list[Callable[[], None]] = []
    try:
        try:
            for file in dict.fromkeys(hunk.file for hunk in some):
                _bring_back(file, [hunk for hunk in some if hunk.file == file], undo)
        except (OSError, SyntaxError, ValueError, NameError, ImportError, AttributeError, TypeError):
            yield False
        else:
            with forgotten(memories()):
                yield bool(undo)
    finally:
        for step in reversed(undo):
            step()


def _bring_back(file: Path, some: Sequence[Hunk], undo: list[Callable[[], None]]) -> None:
    head = file.read_text(encoding="utf-8")
    lines = head.splitlines()
    for hunk in sorted(some, key=lambda hunk: -hunk.start):
        lines[hunk.start : hunk.stop] = hunk.before
    name = str(file)
    before, after = ast.parse(head), ast.parse("\n".join(lines) + "\n")
    module = next((m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == name), None)
    if module is None:
        return
    _run_at_top(module, before, after, undo)
    old = {path: ast.dump(node) for path, node in functions(before)}
    new = {path: node for path, node in functions(after) if path in old and ast.dump(node) != old[path]}
    compiled = list(codes_in(compile(after, name, "exec")))
    often = Counter(code.co_qualname for code in compiled)  # a property's getter and setter have one name
    codes = {code.co_qualname: code for code in compiled if often[code.co_qualname] == 1}
    for each in [x for x in gc.get_objects() if type(x) is FunctionType and x.__code__.co_filename == name]:
        path = tuple(each.__code__.co_qualname.split("."))
        if path in new and each.__code__.co_qualname in codes:
            _exchange(each, codes[each.__code__.co_qualname], new[path], undo)
    for path, node in functions(after):
        if path not in old and len(path) == 2 and not node.decorator_list and ".".join(path) in codes:
            _give_method(getattr(module, path[0]), codes[".".join(path)], module, undo)


def _exchange(function: FunctionType, code: CodeType, node: Function, undo: list[Callable[[], None]]) -> None:
    kept = function.__code__, function.__defaults__, function.__kwdefaults__

    def back() -> None:
        function.__code__, function.__defaults__, function.__kwdefaults__ = kept

    undo.append(back)
    function.__code__ = code
    bare = ast.FunctionDef(node.name, node.args, [ast.Pass()], [], lineno=1, col_offset=0)
    with suppress(Exception):  # defaults that only their class knows stay as they are
        names = dict(function.__globals__)
        exec(compile(ast.fix_missing_locations(ast.Module([bare], [])), "<defaults>", "exec"), names)  # noqa: S102
        made = names[node.name]
        function.__defaults__, function.__kwdefaults__ = made.__defaults__, made.__kwdefaults__


def _give_method(owner: type, code: CodeType, module: ModuleType, undo: list[Callable[[], None]]) -> None:
    """A method that only the base has."""
    undo.append(lambda: delattr(owner, code.co_name))
    setattr(owner, code.co_name, FunctionType(code, vars(module), code.co_name))


def _run_at_top(module: ModuleType, before: ast.Module, after: ast.Module, undo: list[Callable[[], None]]) -> None:
    """Run the base's own assignments, imports and functions at the top level; functions that are there get its code."""
    known = {ast.dump(node) for node in before.body}
    there = {node.name for node in before.body if isinstance(node, Function)}
    new: list[ast.stmt] = [
        node
        for node in after.body
        if isinstance(node, _AT_TOP) and ast.dump(node) not in known and getattr(node, "name", "") not in there
    ]
    if not new:
        return
    kept = dict(vars(module))

    def back() -> None:
        vars(module).clear()
        vars(module).update(kept)

    undo.append(back)
    exec(compile(ast.Module(new, []), str(module.__file__), "exec"), vars(module))  # noqa: S102 - the user's base


def _told(left: Sequence[Hunk], ref: str) -> Guilty:
    first = left[0]
    lines = first.file.read_text(encoding="utf-8").splitlines()
    span = range(first.start, max(first.stop, first.start + 1))
    at = next((i for i in span if i < len(lines) and _says_something(lines[i])), min(first.start, len(lines) - 1))
    old = next((line.strip() for line in first.before if _says_something(line)), "")
    shown = old if len(old) <= _LONGEST else old[: _LONGEST - 1] + "…"
    became = f"with `{shown}` of {ref}" if old else f"without what is new since {ref}"
    others = len(left) - 1
    more = f", and {others} more place{'s' if others > 1 else ''} of it" if others else ""
    inside = [
        node for _, node in functions(ast.parse("\n".join(lines))) if node.lineno <= at + 1 <= (node.end_lineno or 0)
    ]
    place = Location(str(first.file), at + 1, inside[0].name if inside else "", lines[at].strip())
    return Guilty(place, f"the check passes {became} here{more}")


def _says_something(line: str) -> bool:
    text = line.strip()
    return bool(text) and not text.startswith("#")
