"""Sums over each head's own places that are divided by the number of one head's, for the check of masked means."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.checks.source.masked_thresholds import factors
from gradgate.checks.source.masks import CASTS
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import Names

BOUNDS = ("clamp", "clamp_min", "clip", "item", "max", "float", "int", "to", "maximum", "double")
DIMS = ("dim", "axis")
ASKS = ("ne", "eq", "ge", "gt", "logical_not", "bool")


def other_heads(nodes: Sequence[ast.AST], names: Names) -> Iterator[tuple[ast.expr, str, str]]:
    """Quotients of a head's sum by another head's number of places: the quotient, the mask, and what is counted."""
    for node in nodes:
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
            continue
        counted = _counted(node.right, names)
        if counted is None:
            continue
        base, index = counted
        total = names.held(_bare(node.left))
        if not (isinstance(total, ast.Call) and called_name(total) == "sum" and isinstance(total.func, ast.Attribute)):
            continue
        values, keeps = _summed(total)
        values = names.held(values)
        for factor in _flat(values):
            own, at = _of(factor, names)
            if base not in own:
                continue
            differs = keeps and at is None if at is None else not at.isdigit() and at != index
            if differs:
                yield node, base, ast.unparse(node.right)
                break


def _flat(node: ast.expr) -> Iterator[ast.expr]:
    if not (sides := factors(node)):
        yield node
    for side in sides:
        yield from _flat(side)


def _summed(call: ast.Call) -> tuple[ast.expr, bool]:
    """What a call sums, and whether an axis is left."""
    of_library = isinstance(call.func, ast.Attribute) and dotted(call.func.value) == "torch" and call.args
    values = call.args[0] if of_library else call.func.value  # type: ignore[attr-defined]
    given = call.args[bool(of_library) :]
    keeps = bool(given) or any(word.arg in DIMS for word in call.keywords)
    return values, keeps


def _bare(node: ast.expr) -> ast.expr:
    """What is summed, or counted, without what bounds or casts it."""
    while isinstance(node, ast.Call):
        if dotted(node.func) in ("max", "float", "int") and node.args:
            node = next((each for each in node.args if not isinstance(each, ast.Constant)), node.args[0])
        elif isinstance(node.func, ast.Attribute) and node.func.attr in BOUNDS:
            node = node.func.value
        else:
            return node
    return node


def _counted(node: ast.expr, names: Names, hops: int = 4) -> tuple[str, str] | None:
    """The mask and the head whose places a divisor is the number of: `mask[..., 0].sum()`."""
    node = _bare(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _counted(node.left, names, hops)
    if hops and isinstance(node, ast.Name) and (held := names.held(node)) is not node:
        return _counted(held, names, hops - 1)
    if isinstance(node, ast.Subscript) and _index(node).isdigit():
        counts = _bare(names.held(node.value))  # `mask.sum((0, 1))[0]`
        if isinstance(counts, ast.Call) and called_name(counts) == "sum" and isinstance(counts.func, ast.Attribute):
            values, keeps = _summed(counts)
            own, at = _of(values, names)
            return (sorted(own)[0], _index(node)) if keeps and at is None and own else None
        return None
    if not (isinstance(node, ast.Call) and called_name(node) == "sum" and isinstance(node.func, ast.Attribute)):
        return None
    values, keeps = _summed(node)
    values = names.held(values)
    if isinstance(values, ast.Subscript) and not isinstance(values.slice, ast.Tuple):
        return None  # `mask[0]`: a row, where rows come first
    own, at = _of(values, names)
    if keeps or at is None or not at.isdigit() or not own:
        return None
    return sorted(own)[0], at


def _of(node: ast.expr, names: Names, hops: int = 3) -> tuple[set[str], str | None]:
    """What an expression takes of a mask, by the names that it goes by, and of which head; None: of all."""
    at: str | None = None
    while True:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in (*CASTS, *ASKS):
            node = node.func.value
        elif isinstance(node, ast.Compare):
            node = node.left
        elif isinstance(node, ast.Subscript) and at is None and _index(node):
            at, node = _index(node), node.value
        else:
            break
    name = dotted(node)
    own = {name} if name else set()
    held = names.held(node) if hops and isinstance(node, ast.Name) else node
    if held is not node and isinstance(held, ast.Compare | ast.Call | ast.Subscript):
        more, inner = _of(held, names, hops - 1)
        own, at = own | more, at if at is not None else inner
    return own, at


def _index(node: ast.Subscript) -> str:
    """The one head that an index takes: a number or a name at the end, behind `...` or two slices, or alone."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    *before, last = parts
    whole = all(
        (isinstance(each, ast.Slice) and each.lower is each.upper is None)
        or (isinstance(each, ast.Constant) and each.value is ...)
        for each in before
    )
    has_ellipsis = any(isinstance(each, ast.Constant) for each in before)
    is_one = isinstance(last, ast.Name) or (isinstance(last, ast.Constant) and isinstance(last.value, int))
    return ast.unparse(last) if whole and is_one and (has_ellipsis or len(before) != 1) else ""
