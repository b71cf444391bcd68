"""Which axis of a tensor a number is the size of, for the checks that read the source."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradgate.checks.source.trainer import dotted, given_by
from gradgate.checks.source.values import Names


def axes_in(nodes: Sequence[ast.AST]) -> dict[str, set[int]]:
    """The names that a tensor's shape is taken apart into, each with its axis; of the last, -1 too."""
    found: dict[str, set[int]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and _is_shape(node.value):
            parts = node.targets[0].elts
            for at, part in enumerate(parts):
                found[dotted(part)] = {at, -1} if at == len(parts) - 1 else {at}
    return found


def _is_shape(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "shape"
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "size"
        and not node.args
    )


def size_of(node: ast.expr, names: Names, axes: dict[str, set[int]]) -> set[int]:
    """The axis whose size a number is; empty: it is no size."""
    node = names.held(node)
    if isinstance(node, ast.Name):
        return axes.get(node.id, set())
    if isinstance(node, ast.Subscript) and _is_shape(node.value):
        return {number_in(node.slice)} if isinstance(node.slice, ast.Constant | ast.UnaryOp) else set()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size":
        given = given_by(node)
        return {number_in(given[0])} if len(given) == 1 else set()
    return set()


def number_in(node: ast.expr) -> int:
    """The number that is written; 0: none is."""
    text = ast.unparse(node)
    return int(text) if text.lstrip("-").isdigit() else 0
