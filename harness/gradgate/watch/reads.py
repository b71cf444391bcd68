"""Where a function's source reads a name after a line, and before the name means something else."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from types import CodeType

from gradgate.watch.sources import file_tree

_TOLD = frozenset({"shape", "size", "dim", "ndim", "device", "dtype", "numel", "is_cuda", "requires_grad", "data_ptr"})
_FILLING = frozenset({"append", "appendleft", "add", "insert", "extend", "update", "setdefault", "clear"})
_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr, ast.Delete, ast.Raise, ast.Assert)


@functools.lru_cache(maxsize=4096)
def later(code: CodeType, line: int, name: str, *, contained: bool, spelled: bool) -> frozenset[int]:
    """The lines that read a name's numbers after the statement at a line has rewritten them.

    Args:
        code: the function.
        line: where it is now.
        name: a local name.
        contained: whether it names a container, which the statement may well give a new name to a part of.
        spelled: whether the statement itself is the in-place operation.

    Returns:
        Lines; empty where the statement throws the result away or gives the name to it (the rewriting is meant), or
        writes `name.method_(...)` itself.
    """
    function = _function(code)
    statement = _statement(function, line) if function else None
    if function is None or statement is None or isinstance(statement, ast.Expr):
        return frozenset()
    if not contained and (name in _bound(statement) or (spelled and _names_method(statement, name))):
        return frozenset()
    end = statement.end_lineno or line
    found = set() if contained else set(_beside_calls(statement, name))
    rebound = min((part.lineno for part in _simple(function) if part.lineno > end and name in _bound(part)), default=0)
    for read in _loads(function, name):
        if read.lineno > end and (not rebound or read.lineno <= rebound):
            found.add(read.lineno)
    if spelled:  # a line that reads what was written on purpose shows nothing
        found -= {read.lineno for own in _bound(statement) for read in _loads(function, own)}
    return frozenset(found)


def _function(code: CodeType) -> ast.AST | None:
    tree = file_tree(code.co_filename)
    if tree is None or code.co_name == "<module>":
        return tree
    around = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == code.co_name)
    first = code.co_firstlineno
    return next((node for node in around if min([node.lineno, *_decorators(node)]) == first), None)


def _decorators(node: ast.FunctionDef) -> list[int]:
    return [part.lineno for part in node.decorator_list]


def _simple(function: ast.AST) -> Iterator[ast.stmt]:
    return (node for node in ast.walk(function) if isinstance(node, _SIMPLE))


def _statement(function: ast.AST, line: int) -> ast.stmt | None:
    """The simple statement, or the head of a compound one, at a line."""
    around = [node for node in _simple(function) if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return around[0] if around else None


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a new meaning."""
    stores = (node for node in ast.walk(statement) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load))
    return {node.id for node in stores}


def _names_method(statement: ast.stmt, name: str) -> bool:
    """Whether a statement says `name.method_(...)`: its writer knows that the name changes."""
    return any(
        isinstance(node, ast.Attribute) and node.attr.endswith("_") and name in {part.id for part in _all_names(node)}
        for node in ast.walk(statement)
    )


def _all_names(node: ast.AST) -> Iterator[ast.Name]:
    return (part for part in ast.walk(node) if isinstance(part, ast.Name))


def _beside_calls(statement: ast.stmt, name: str) -> Iterator[int]:
    """The lines of a statement that passes a name to a call and reads it beside or around that call as well."""
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    reads = list(_loads(statement, name))
    around = [[call for call in calls if _is_given(read, call)] for read in reads]
    for held in around:
        outside = set(held[:-1])  # ast.walk goes from the outside in
        if held and any(outside.issuperset(other) for other in around):
            yield from range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
            return


def _is_given(read: ast.Name, call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(part is read for argument in given for part in ast.walk(argument))


def _loads(tree: ast.AST, name: str) -> Iterator[ast.Name]:
    """Where a name's numbers are read: not what is told about it, nor what is put into it."""
    told = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in _TOLD | _FILLING and isinstance(node.value, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) and id(node) not in told:
            yield node
