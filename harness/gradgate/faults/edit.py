"""Edits of source by syntax tree: a pattern must match exactly once, however the source is formatted."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradgate.core.errors import GradgateError

Body = list[ast.stmt]
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# An expression of these kinds needs no parentheses, wherever it is put.
_ATOMS = (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript, ast.List, ast.Dict, ast.Set)


class EditError(GradgateError):
    """A pattern that matches nothing, or twice, or that is no Python."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of one file.

    Args:
        file: relative to the root of the source.
        find: statements, or one expression, as Python text.
        replace: what stands there afterwards; empty: `pass`.
        within: dotted name of the function or class that holds the match; empty: the whole file.
    """

    file: str
    find: str
    replace: str
    within: str = ""


@dataclass(frozen=True, slots=True)
class Edited:
    """A changed file.

    Args:
        text: the whole of it.
        first: first line that is new, from 1.
        last: last line that is new.
    """

    text: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Span:
    """A piece of the source in bytes, and where it starts."""

    start: int
    end: int
    line: int
    column: int


def apply(source: str, edit: Edit) -> Edited:
    """Change a source text.

    Args:
        source: of the file.
        edit: what to change.

    Returns:
        The changed text, which is Python again, and the lines that changed.

    Raises:
        EditError: the pattern matches nothing or more than once, or the outcome is no Python.
    """
    tree = _parsed(source, edit.file)
    scope = scope_of(tree, edit.within, edit.file)
    pattern = _parsed(textwrap.dedent(edit.find).strip(), f"{edit.file}: find").body
    # An expression for an expression is found anywhere; for anything else it has to stand as a statement.
    expression = _is_expression(pattern) and _is_expression(
        _parsed(textwrap.dedent(edit.replace).strip(), "replace").body
    )
    found = list(_expressions(scope, pattern[0].value)) if expression else list(_statements(scope, pattern))  # type: ignore[attr-defined]
    place = f"{edit.file}{f', {edit.within}' if edit.within else ''}"
    if len(found) != 1:
        how = (
            "nothing" if not found else f"{len(found)} places, lines {', '.join(str(node[0].lineno) for node in found)}"
        )
        raise EditError(f"{place}: {_short(edit.find)!r} matches {how}; expected exactly one place")
    return _spliced(source, found[0], edit, expression, place)


def _spliced(source: str, nodes: Sequence[ast.stmt | ast.expr], edit: Edit, expression: bool, place: str) -> Edited:
    span = _span(source, nodes)
    text = _expression(edit.replace) if expression else _indented(edit.replace, span.column)
    raw = source.encode()
    changed = (raw[: span.start] + text.encode() + raw[span.end :]).decode()
    try:
        ast.parse(changed)
    except SyntaxError as error:
        raise EditError(f"{place}: with {_short(edit.replace)!r} the file is no Python: {error}") from error
    if _dumped(edit.replace) == _dumped(edit.find):
        raise EditError(f"{place}: {_short(edit.find)!r} is replaced by itself")
    return Edited(changed, span.line, span.line + text.count("\n"))


def _parsed(text: str, where: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise EditError(f"{where}: {_short(text)!r} is no Python: {error}") from error


def _dumped(text: str) -> str | None:
    """What a text says as Python; None where it is none by itself."""
    try:
        return ast.dump(ast.parse(textwrap.dedent(text).strip()))
    except SyntaxError:
        return None


def scope_of(tree: ast.Module, within: str, file: str) -> ast.AST:
    """The function or class of that dotted name; the tree itself where the name is empty.

    Raises:
        EditError: there is none, or more than one.
    """
    scope: ast.AST = tree
    for name in within.split(".") if within else ():
        inside = [
            node for node in ast.walk(scope) if isinstance(node, _SCOPES) and node.name == name and node is not scope
        ]
        if len(inside) != 1:
            raise EditError(
                f"{file}: {len(inside)} functions or classes are called {name!r}, of {within!r}; expected one"
            )
        scope = inside[0]
    return scope


def _expressions(scope: ast.AST, pattern: ast.expr) -> Iterator[list[ast.expr]]:
    wanted = ast.dump(pattern)
    for node in ast.walk(scope):
        if isinstance(node, ast.expr) and type(node) is type(pattern) and ast.dump(node) == wanted:
            yield [node]


def _statements(scope: ast.AST, pattern: Body) -> Iterator[Body]:
    wanted, kinds = [ast.dump(statement) for statement in pattern], [type(statement) for statement in pattern]
    for node in ast.walk(scope):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if not isinstance(body, list):
                continue
            for start in range(len(body) - len(wanted) + 1):
                part = body[start : start + len(wanted)]
                if [type(each) for each in part] == kinds and [ast.dump(each) for each in part] == wanted:
                    yield part


def _span(source: str, nodes: Sequence[ast.stmt | ast.expr]) -> _Span:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    first, last = nodes[0], nodes[-1]
    start = starts[first.lineno - 1] + first.col_offset
    end = starts[(last.end_lineno or last.lineno) - 1] + (last.end_col_offset or 0)
    return _Span(start, end, first.lineno, first.col_offset)


def _is_expression(body: Body) -> bool:
    """Whether it is one expression that can stand inside others; a `yield` cannot."""
    return len(body) == 1 and isinstance(body[0], ast.Expr) and not isinstance(body[0].value, ast.Yield | ast.YieldFrom)


def _expression(text: str) -> str:
    text = textwrap.dedent(text).strip()
    return text if isinstance(ast.parse(text, mode="eval").body, _ATOMS) else f"({text})"


def _indented(text: str, column: int) -> str:
    lines = textwrap.dedent(text).strip().splitlines() or ["pass"]
    return ("\n" + " " * column).join(lines)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:67] + "..."
