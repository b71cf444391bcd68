"""Evidence: which of a function's parameters its body treats as tensors."""

from __future__ import annotations

import ast

from gradgate.scan.modules import Function
from gradgate.scan.nodes import walk
from gradgate.scan.operations import table


def treated_as_tensors(function: Function) -> frozenset[str]:
    """Parameters that are handed to a torch function first, or whose method is one that only tensors have.

    Looked up before the body is run, so that a comparison on the first line knows what the third line reveals.
    """
    if function.evidence is None:
        function.evidence = _found(function)
    return function.evidence


def _found(function: Function) -> frozenset[str]:
    names = set(function.parameters)
    found: set[str] = set()
    if not names:
        return frozenset()
    for node in walk(function.node):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        inner = node.func.value
        if isinstance(inner, ast.Name) and inner.id in names and inner.id not in function.module.imports:
            if node.func.attr in table().evidence or node.func.attr in table().writes:
                found.add(inner.id)
        elif node.args and isinstance(node.args[0], ast.Name) and node.args[0].id in names:
            dotted = function.module.dotted(node.func)
            head, _, name = dotted.rpartition(".")
            if (
                head in ("torch", "torch.nn.functional")
                and name in table().operations
                and name not in ("einsum", "cat", "stack")
            ):
                found.add(node.args[0].id)
    return frozenset(found)
