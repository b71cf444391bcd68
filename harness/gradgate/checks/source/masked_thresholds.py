"""Quantiles, medians, spreads and thresholds of the largest that are taken over what a mask is to leave out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradgate.checks.source.masks import CASTS, MASK, gives_mask
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import Names, assignments_in, places_of

SPREADS = ("quantile", "median", "std", "var")
TAKEN = (*SPREADS, "kthvalue", "topk")
ORDERED = ("topk", "kthvalue", "sort", "argsort")
ABOVE_0 = ("abs", "clamp", "clamp_min", "relu", "square", "pow", "exp", "softmax", "sigmoid", "softplus")
LIBRARIES = ("torch", "np", "numpy", "jnp")
FORMS = (*CASTS, "flatten", "ravel", "detach", "contiguous", "clone", "cpu", "numpy")
LABELS = re.compile(r"-100|ignore|pad|label", re.IGNORECASE)
FAR = re.compile(r"inf|nan|finfo|\.min|\.max|-?1e\+?\d|-\d{3,}|NEG|BIG", re.IGNORECASE)


@dataclass(frozen=True)
class Taken:
    """What was taken over too much: the call, and the mask that leaves something out."""

    call: ast.Call
    mask: str


def thresholds(nodes: Sequence[ast.AST], names: Names) -> Iterator[Taken]:
    """What a function takes over all places, though a mask leaves some out.

    Args:
        nodes: the function's own.
        names: what its names hold.
    """
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        if (mask := competing(call, names)) is not None:
            yield Taken(call, ast.unparse(mask.operand if isinstance(mask, ast.UnaryOp) else mask))
            continue
        kind, values, share = _parts(call)
        amount = list(_amount(share, names))
        if values is None or any(leaves_out(part, names) for part in amount):
            continue
        made = list(names.parts(values))
        mask = zeroed(values, names) if kind in SPREADS else _of_all(values, amount, made, names)
        if mask is None and not _is_far(made):
            mask = _masked_behind(call, values, nodes, names)
        if mask is not None:
            yield Taken(call, ast.unparse(mask.operand if isinstance(mask, ast.UnaryOp) else mask))


def competing(call: ast.Call, names: Names) -> ast.expr | None:
    """The mask that makes values 0 of which the largest, or the smallest, are taken, where 0 may be one of them.

    The largest of what is a difference, which may be less than 0, or the smallest of anything.
    """
    kind = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if kind not in ORDERED or not isinstance(call.func, ast.Attribute):
        return None
    of_library = dotted(call.func.value) in LIBRARIES
    values = (call.args[0] if call.args else None) if of_library else call.func.value
    mask = zeroed(bare(values), names) if values is not None else None
    if values is None or mask is None:
        return None
    words = {word.arg: ast.unparse(word.value) for word in call.keywords}
    smallest = kind == "kthvalue" or words.get("largest") == "False"
    if kind in ("sort", "argsort") and words.get("descending") != "True":
        return None  # what is taken of an order from the smallest is not known
    made = [part for part in names.parts(bare(values)) if isinstance(part, ast.expr)]
    above_0 = (getattr(part.func, "attr", "") for part in made if isinstance(part, ast.Call))
    differs = any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) for part in made)
    return mask if smallest or (differs and not any(name in ABOVE_0 for name in above_0)) else None


def _parts(call: ast.Call) -> tuple[str, ast.expr | None, list[ast.expr]]:
    """Which it is, the values that it is taken of, and how much of them."""
    if not (isinstance(call.func, ast.Attribute) and call.func.attr in TAKEN):
        return "", None, []
    given = given_by(call)
    if dotted(call.func.value) in LIBRARIES:
        return call.func.attr, bare(given[0]) if given else None, given[1:]
    return call.func.attr, bare(call.func.value), given


def bare(node: ast.expr) -> ast.expr:
    """An expression without what only changes its form."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FORMS:
        node = node.func.value
    return node


def _amount(share: Sequence[ast.AST], names: Names, hops: int = 4) -> Iterator[ast.expr]:
    """The parts of how much is taken, without those of which only the size is asked."""
    for node in share:
        if isinstance(node, ast.expr):
            yield node
        asks = (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("numel", "size")
        )
        if asks or (isinstance(node, ast.Attribute) and node.attr == "shape"):
            continue
        if hops and isinstance(node, ast.Name) and (held := names.held(node)) is not node:
            yield from _amount([held], names, hops - 1)
        yield from _amount(list(ast.iter_child_nodes(node)), names, hops)


def leaves_out(node: ast.expr, names: Names) -> bool:
    """Whether an expression says by its name, or by labels, which places count."""
    node = bare(node)
    node = bare(node.operand) if isinstance(node, ast.UnaryOp) else node
    held = bare(names.held(node))
    if isinstance(held, ast.Subscript) and leaves_out(held.slice, names):
        return False  # what a mask has picked: all of it counts
    named = bool(MASK.search(dotted(node).rpartition(".")[2])) or gives_mask(held)
    return named or (isinstance(held, ast.Compare) and bool(LABELS.search(ast.unparse(held))))


def _filled(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """Where `masked_fill` or `where` puts something else, and what."""
    if not isinstance(node, ast.Call):
        return None
    last = called_name(node)
    if last in ("masked_fill", "masked_fill_") and len(node.args) > 1:
        return node.args[-2], node.args[-1]
    if last == "where" and len(node.args) == 3:
        return node.args[0], node.args[2]
    return None


def _is_far(made: Sequence[ast.AST]) -> bool:
    """Whether values are infinite, or none, where a mask says so."""
    return any(filled is not None and bool(FAR.search(ast.unparse(filled[1]))) for filled in map(_filled, made))


def factors(node: ast.expr) -> list[ast.expr]:
    """The two sides of a product, also of `a.mul(b)` and `torch.mul(a, b)`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [node.left, node.right]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("mul", "multiply"):
        sides = node.args if dotted(node.func.value) in LIBRARIES else [node.func.value, *node.args]
        return sides if len(sides) == 2 else []
    return []


def zeroed(values: ast.expr, names: Names) -> ast.expr | None:
    """The mask that makes values 0."""
    held = bare(names.held(values))
    if sides := factors(held):
        masks = [side for side in sides if leaves_out(side, names)]
        return masks[0] if len(masks) == 1 else None
    filled = _filled(held)
    is_zero = filled is not None and re.fullmatch(r"0(\.0*)?|.*zeros\w*\(.*", ast.unparse(filled[1]))
    return filled[0] if filled is not None and is_zero and leaves_out(filled[0], names) else None


def _of_all(values: ast.expr, amount: Sequence[ast.expr], made: Sequence[ast.AST], names: Names) -> ast.expr | None:
    """The mask that makes values infinite, where a share of all of them is taken."""
    every = f"{ast.unparse(values)}.numel()"
    is_share = any(
        isinstance(part, ast.BinOp)
        and isinstance(part.op, ast.Mult)
        and every in map(ast.unparse, (part.left, part.right))
        for part in amount
    )
    for filled in filter(None, map(_filled, made)) if is_share else ():
        if FAR.search(ast.unparse(filled[1])) and leaves_out(filled[0], names):
            return filled[0]
    return None


def _masked_behind(call: ast.Call, values: ast.expr, nodes: Sequence[ast.AST], names: Names) -> ast.expr | None:
    """The mask with which the comparison of values with their threshold is taken."""
    results = {id(call)}
    held_in = set[str]()
    for target, value in assignments_in(nodes):
        if value.lineno >= call.lineno and _reads(value, results, held_in):
            held_in |= {dotted(place) for place in places_of(target)}
    compared = {
        id(node)
        for node in nodes
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and _is_of(node, values, results, held_in)
    }
    chosen = {dotted(target) for target, value in assignments_in(nodes) if id(bare(value)) in compared}
    for node in nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.Mult):
            sides = [node.left, node.right]
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitAnd | ast.Mult):
            sides = [node.target, node.value]
        elif isinstance(node, ast.Call) and (filled := _filled(node)) is not None:
            sides = [filled[0], node.args[1] if len(node.args) == 3 else getattr(node.func, "value", filled[1])]
        else:
            continue
        for side, other in (sides, sides[::-1]):
            is_compared = id(bare(side)) in compared or dotted(bare(side)) in chosen - {""}
            if is_compared and leaves_out(other, names):
                return other
    return None


def _reads(value: ast.expr, results: set[int], held_in: set[str]) -> bool:
    return any(id(part) in results or (dotted(part) in held_in and dotted(part)) for part in ast.walk(value))


def _is_of(node: ast.Compare, values: ast.expr, results: set[int], held_in: set[str]) -> bool:
    """Whether a comparison holds values against a threshold of theirs."""
    sides = [node.left, node.comparators[0]]
    return any(
        ast.unparse(bare(one)) == ast.unparse(values) and _reads(other, results, held_in)
        for one, other in (sides, sides[::-1])
    )
