"""What says of each place whether it counts, for the checks that read the source."""

from __future__ import annotations

import ast
import re

from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import Names

MASK = re.compile(r"(^|_)(masks?|valid|is_real|not_pad)(_[A-Z]+)?$", re.IGNORECASE)
DRAWN = re.compile(r"drop|rand|noise|bernoulli|prun|spars|causal|quantil|clip", re.IGNORECASE)
CASTS = ("float", "double", "half", "long", "int", "bool", "to", "type_as", "unsqueeze", "squeeze", "view", "reshape")


def is_mask(node: ast.expr, names: Names, called: re.Pattern[str] = MASK, hops: int = 4) -> bool:
    """Whether an expression says of each place whether it counts.

    Args:
        node: the expression.
        names: of the function that it stands in.
        called: what masks are called.
        hops: how many names are followed.
    """
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CASTS:
        node = node.func.value
    if isinstance(node, ast.Subscript):
        return is_mask(node.value, names, called, hops)
    if isinstance(node, ast.Compare):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        return is_mask(node.left, names, called, hops) or is_mask(node.right, names, called, hops)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return True
    if gives_mask(node, called):
        return True
    held = names.held(node)
    made = held is not node and hops > 0 and is_mask(held, names, called, hops - 1)
    return made or bool(called.search(dotted(node).rpartition(".")[2]))


def gives_mask(node: ast.expr, called: re.Pattern[str] = MASK) -> bool:
    """Whether an expression calls what by its name gives a mask, and none that is drawn: `batch.span_mask()`."""
    name = called_name(node) if isinstance(node, ast.Call) else ""
    return bool(called.search(name)) and not DRAWN.search(name)
