"""The part of a function that can run, given its class's constants."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.scan.modules import Class


def reachable(node: ast.AST, owner: Class | None) -> Iterator[ast.AST]:
    """Nodes of a function, without branches that a class constant rules out (in the class that defines it)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and owner is not None:
            decided = _decided(child.test, owner)
            if decided is not None:
                for part in child.body if decided else child.orelse:
                    yield part
                    yield from reachable(part, owner)
                continue
        yield child
        yield from reachable(child, owner)


def _decided(test: ast.expr, owner: Class) -> bool | None:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _decided(test.operand, owner)
        return None if inner is None else not inner
    if isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name) and test.value.id == "self":
        value = owner.constant(test.attr)
        if isinstance(value, ast.Constant) and isinstance(value.value, bool):
            return value.value
    return None
