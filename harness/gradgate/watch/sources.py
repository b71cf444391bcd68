"""What the user's source says about an object: where an attribute is assigned, which names a line uses."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import textwrap
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

from torch import Tensor, nn

from gradgate.core.finding import Location
from gradgate.core.origin import is_own_code

_KEEPING_LEAF = frozenset({"requires_grad_", "retain_grad", "register_hook", "detach", "numel", "size", "dim"})
_PUTTING = frozenset({"append", "appendleft", "extend", "add", "insert", "update", "setdefault"})


@functools.cache
def _class_tree(owner: type) -> tuple[ast.AST, str, int] | None:
    try:
        file = inspect.getsourcefile(owner)
        lines, first = inspect.getsourcelines(owner)
        if file is None or not is_own_code(file):
            return None
        return ast.parse(textwrap.dedent("".join(lines))), file, first
    except (OSError, TypeError, SyntaxError):
        return None


def assignments(owner: type, attribute: str) -> list[Location]:
    """The lines at which a class assigns `self.attribute`, those of `__init__` last.

    Args:
        owner: the class; its bases follow.
        attribute: the name.

    Returns:
        Places, empty where there is no source.
    """
    found: list[tuple[bool, Location]] = []
    for base in owner.__mro__:
        parsed = _class_tree(base)
        if parsed is None:
            continue
        tree, file, first = parsed
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if _assigns(node, attribute) or _puts_into(node, attribute):
                    line = first + node.lineno - 1  # type: ignore[attr-defined]
                    source = linecache.getline(file, line).strip()
                    found.append((function.name == "__init__", Location(file, line, function.name, source)))
    return [place for _, place in sorted(found, key=lambda pair: pair[0])]


def _assigns(node: ast.AST, attribute: str) -> bool:
    if isinstance(node, ast.Assign):
        targets = [part for target in node.targets for part in ast.walk(target)]
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        named = isinstance(call.func, ast.Attribute) and call.func.attr in ("register_parameter", "add_module")
        return named and bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == attribute
    else:
        return False
    return any(isinstance(target, ast.Attribute) and target.attr == attribute for target in targets)


def _puts_into(node: ast.AST, name: str) -> bool:
    """Whether a statement calls a method that puts something into the container `name` or `self.name`."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    method = node.value.func
    if not isinstance(method, ast.Attribute) or method.attr not in _PUTTING:
        return False
    held = method.value
    return (isinstance(held, ast.Attribute) and held.attr == name) or (isinstance(held, ast.Name) and held.id == name)


def carried(place: tuple[CodeType, int]) -> Location | None:
    """Where something that a line reads is put for the next time round.

    Args:
        place: a line that reads a tensor of an earlier step.

    Returns:
        The assignment, outside `__init__`, of an attribute `self.x` that the line names; else the assignment, inside
        a loop, of a local name; None where there is neither.
    """
    code, line = place
    tree = file_tree(code.co_filename)
    names = _names(code.co_filename, line)
    if tree is None:
        return None
    attributes = {chain[1] for chain in names if len(chain) > 1 and chain[0] == "self"}
    owner = _enclosing(tree, line, ast.ClassDef)
    for node in ast.walk(owner) if owner else ():
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            for statement in ast.walk(node):
                if any(_assigns(statement, attribute) for attribute in attributes):
                    return _located(code.co_filename, statement, node.name)
    function = _enclosing(tree, line, ast.FunctionDef) or tree
    return _carried_in_loop(function, {chain[0] for chain in names}, code)


def carried_name(frame: FrameType, name: str) -> Location | None:
    """The line, in a loop that runs now, that gives a local name its value for the next round."""
    tree = file_tree(frame.f_code.co_filename)
    function = tree and (_enclosing(tree, frame.f_lineno, ast.FunctionDef) or tree)
    return _carried_in_loop(function, {name}, frame.f_code, frame.f_lineno) if function else None


def _carried_in_loop(function: ast.AST, names: set[str], code: CodeType, line: int = 0) -> Location | None:
    for loop in ast.walk(function):
        if not isinstance(loop, ast.For | ast.While) or (line and not loop.lineno <= line <= (loop.end_lineno or 0)):
            continue
        for statement in ast.walk(loop):
            assigned = isinstance(statement, ast.Assign | ast.AugAssign) and _targets(statement) & names
            given = assigned or any(_puts_into(statement, name) for name in names)
            if given and (not line or _is_carried(loop, statement, names)):
                return _located(code.co_filename, statement, code.co_name)
    return None


def _is_carried(loop: ast.AST, statement: ast.AST, names: set[str]) -> bool:
    """Whether a round of a loop reads a name before, or in, the statement that assigns it."""
    last = statement.end_lineno or 0  # type: ignore[attr-defined]
    reads = (node for node in ast.walk(loop) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return isinstance(statement, ast.Expr | ast.AugAssign) or any(
        node.id in names and node.lineno <= last for node in reads
    )


def puts(files: Iterable[str], name: str) -> list[Location]:
    """The lines that put something into a container, or add to a variable, of a name.

    Args:
        files: where to look.
        name: of the variable or the attribute, whoever owns it.

    Returns:
        Calls of `name.append()` and the like, assignments to `name[...]` and `name += ...`, then `name = name + ...`,
        also where `getattr` reads it.
    """
    found: list[tuple[int, Location]] = []
    for file in files:
        tree = file_tree(file)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] if tree else []
        for owner in [*functions, *([tree] if tree else [])]:
            for node in ast.walk(owner):
                rank = _puts(node, name)
                if rank is None:
                    continue
                place = _located(file, node, getattr(owner, "name", "<module>"))
                if not any((other.file, other.line) == (place.file, place.line) for _, other in found):
                    found.append((rank, place))
    return [place for _, place in sorted(found, key=lambda pair: pair[0])]


def _puts(node: ast.AST, name: str) -> int | None:
    """How sure it is that a node puts something into `name`: 0 and 1 are; None: it does not."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _PUTTING:
        return 0 if _ends(node.func.value, name) else None
    if isinstance(node, ast.AugAssign):
        return 0 if _ends(node.target, name) else None
    if isinstance(node, ast.Assign):
        if any(isinstance(target, ast.Subscript) and _ends(target.value, name) for target in node.targets):
            return 0
        to_it = any(_ends(target, name) for target in node.targets)
        return 1 if to_it and any(_ends(part, name) or _is_word(part, name) for part in ast.walk(node.value)) else None
    return None


def _is_word(node: ast.AST, name: str) -> bool:
    """Whether a name is written as a word, as in `getattr(self, "history", [])`."""
    return isinstance(node, ast.Constant) and node.value == name


def _ends(node: ast.AST, name: str) -> bool:
    return (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)


def _located(file: str, node: Any, function: str) -> Location:
    return Location(file, node.lineno, function, linecache.getline(file, node.lineno).strip())


def _targets(statement: ast.Assign | ast.AugAssign) -> set[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    parts = [part for target in targets for part in ast.walk(target)]
    return {part.id for part in parts if isinstance(part, ast.Name)}


def _enclosing(tree: ast.AST, line: int, kind: type[ast.AST]) -> ast.AST | None:
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, kind) and node.lineno <= line <= (node.end_lineno or 0)  # type: ignore[attr-defined]
    ]
    return max(around, key=lambda node: node.lineno, default=None)  # type: ignore[attr-defined]


@functools.cache
def file_tree(file: str) -> ast.Module | None:
    """A file's source, parsed."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return None


def reads(place: tuple[CodeType, int], line: int) -> bool:
    """Whether a line names something that the line at `place` assigns.

    Args:
        place: where something is assigned.
        line: a line of the same file.
    """
    file, at = place[0].co_filename, place[1]
    tree = file_tree(file)
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and node.lineno == at] if tree else []
    used = {chain[0] for chain in _names(file, line)}
    return line > at and any(_targets(statement) & used for statement in made)


def return_after(code: CodeType, line: int) -> Location | None:
    """The first return statement of a function at or after a line."""
    after = [number for number in _returns(code) if number >= line]
    return _at(code, after[0]) if after else None


def _returns(code: CodeType) -> list[int]:
    """The lines of a function's return statements."""
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return []
    return sorted(first + node.lineno - 1 for node in ast.walk(tree) if isinstance(node, ast.Return))


def _at(code: CodeType, line: int) -> Location:
    return Location(code.co_filename, line, code.co_name, linecache.getline(code.co_filename, line).strip())


def written_name(place: tuple[CodeType, int]) -> str:
    """What a line writes in place, as the line calls it; empty where it does not say so itself.

    Args:
        place: a line with `name[...] = ...`, `name += ...`, `name.method_(...)` or `name.data...` of these.
    """
    tree = file_tree(place[0].co_filename)
    at = [node for node in ast.walk(tree) if getattr(node, "lineno", 0) == place[1]] if tree else []
    for node in at:
        targets: list[ast.expr] = []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Assign):
            targets = [part for part in node.targets if isinstance(part, ast.Subscript)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_"):
            targets = [] if node.func.attr.startswith("_") else [node.func.value]
        for target in targets:
            while isinstance(target, ast.Subscript):
                target = target.value
            chain = [part for part in _chain(target) if part != "data"]
            if chain and chain[0] not in ("torch", "F", "nn", "np"):
                return ".".join(chain)
    return ""


def lost_leaf(read: Location, name: str = "") -> Location | None:
    """The line that makes a leaf and converts it in one expression, so that what is kept is no leaf.

    Args:
        read: the line that reads the gradient of what was kept.
        name: its attribute or local name there, where known.

    Returns:
        Such a line in what the assignment of the name calls; else the only such line of the file; else None.
    """
    tree = file_tree(read.file)
    lost = [node for node in ast.walk(tree) if isinstance(node, ast.expr) and _converts_leaf(node)] if tree else []
    lines = sorted({(node.lineno, _function_around(tree, node.lineno)) for node in lost}) if tree else []
    if len(lines) > 1 and tree is not None:
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and name in _kept_names(node)]
        called = {part.id for node in made for part in ast.walk(node.value) if isinstance(part, ast.Name)}
        lines = [(line, around) for line, around in lines if around in called or line in {node.lineno for node in made}]
    if len(lines) != 1:
        return None
    line, around = lines[0]
    return Location(read.file, line, around, linecache.getline(read.file, line).strip())


def _converts_leaf(node: ast.expr) -> bool:
    """Whether an expression is a method call on, or arithmetic with, a leaf that it makes itself."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr not in _KEEPING_LEAF and _makes_leaf(node.func.value)
    return isinstance(node, ast.BinOp) and (_makes_leaf(node.left) or _makes_leaf(node.right))


def _makes_leaf(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    asked = any(keyword.arg == "requires_grad" and _is_true(keyword.value) for keyword in node.keywords)
    return asked or called == "Parameter" or (called == "requires_grad_" and all(map(_is_true, node.args)))


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _kept_names(node: ast.Assign) -> set[str]:
    parts = [part for target in node.targets for part in ast.walk(target)]
    return {
        part.id if isinstance(part, ast.Name) else part.attr
        for part in parts
        if isinstance(part, ast.Name | ast.Attribute)
    }


def _function_around(tree: ast.AST, line: int) -> str:
    return getattr(_enclosing(tree, line, ast.FunctionDef), "name", "")


def grad_owner(place: tuple[CodeType, int]) -> str:
    """What a line reads `.grad` of: the last name before it."""
    chains = [chain for chain in _names(place[0].co_filename, place[1]) if chain[-1] == "grad" and len(chain) > 1]
    return chains[0][-2] if chains else ""


def freezings(file: str) -> list[Location]:
    """The lines of a file that take `requires_grad` from tensors, or may."""
    tree = file_tree(file)
    found = [node for node in ast.walk(tree) if _freezes(node)] if tree else []
    return [_located(file, node, _function_around(tree, node.lineno)) for node in found] if tree else []  # type: ignore[attr-defined]


def _freezes(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        named = any(isinstance(target, ast.Attribute) and target.attr == "requires_grad" for target in node.targets)
        given: ast.expr | None = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        named = node.func.attr == "requires_grad_"
        given = next(iter([*node.args, *(keyword.value for keyword in node.keywords)]), None)
    else:
        return False
    return named and given is not None and not (isinstance(given, ast.Constant) and given.value is True)


def last_return(function: Any) -> Location | None:
    """The last return statement of a function."""
    code = getattr(function, "__code__", None)
    if code is None or not is_own_code(code.co_filename):
        return None
    numbers = _returns(code)
    return _at(code, numbers[-1]) if numbers else None


def call_in(function: Any, name: str) -> Location | None:
    """The first line of a function that calls a method of this name."""
    code = getattr(function, "__code__", None)
    if code is None or not is_own_code(code.co_filename):
        return None
    tree = file_tree(code.co_filename)
    body = tree and _enclosing(tree, code.co_firstlineno + 1, ast.FunctionDef)
    for node in ast.walk(body) if body else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
            return _at(code, node.lineno)
    return None


def operands(frame: FrameType, line: int) -> Iterator[Tensor]:
    """The tensors that a line names, found without running anything: locals, and plain attributes of locals."""
    for node in _names(frame.f_code.co_filename, line):
        value = frame.f_locals.get(node[0], frame.f_globals.get(node[0]))
        for attribute in node[1:]:
            value = _stored(value, attribute)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (part for part in value if isinstance(part, Tensor))


def _stored(owner: Any, attribute: str) -> Any:
    held = getattr(owner, "__dict__", {})
    if attribute in held:
        return held[attribute]
    if isinstance(owner, nn.Module):
        for name in ("_parameters", "_buffers", "_modules"):
            if attribute in held.get(name, {}):
                return held[name][attribute]
    return None


@functools.cache
def _names(file: str, line: int) -> tuple[tuple[str, ...], ...]:
    tree = file_tree(file)
    if tree is None:
        return ()
    chains: dict[tuple[str, ...], None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and node.lineno <= line <= (node.end_lineno or node.lineno):
            chain = _chain(node)
            if chain:
                chains.setdefault(chain)
    return tuple(chains)


def _chain(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        inner = _chain(node.value)
        return (*inner, node.attr) if inner else ()
    return ()
