"""Names of what a trainer carries on from one turn to the next: attributes and entries that are made of themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from gradgate.checks.source.trainer import File


def carried_names(files: Iterable[File]) -> frozenset[str]:
    """Of attributes, and of the entries of mappings, that are raised, moved, or set by what they were."""
    return frozenset(name for file in files for node in ast.walk(file.tree) for name in _carried(node))


def names_in(files: Iterable[File]) -> frozenset[str]:
    """All names of attributes, entries, arguments and fields that a trainer's own text has."""
    return frozenset(name for file in files for node in ast.walk(file.tree) for name in _named(node))


def _named(node: ast.AST) -> Iterator[str]:
    yield from _name(node)
    if isinstance(node, ast.arg | ast.keyword) and node.arg:
        yield node.arg
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def _carried(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.AugAssign | ast.For):
        yield from _name(node.target)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (name for name in _name(target) if name in _read(node.value))
    elif isinstance(node, ast.keyword) and node.arg and node.arg in _read(node.value):
        yield node.arg  # `replace(state, step=state.step + 1)`


def _name(target: ast.AST) -> Iterator[str]:
    """The name of an attribute, or of an entry with a constant key."""
    if isinstance(target, ast.Attribute):
        yield target.attr
    elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        yield str(target.slice.value)
    elif isinstance(target, ast.Tuple):
        for each in target.elts:
            yield from _name(each)


def _read(value: ast.expr) -> set[str]:
    return {name for node in ast.walk(value) for name in _name(node)}
