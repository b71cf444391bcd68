"""Means that are taken over places which a mask has made 0, for the checks that read the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.checks.masked_thresholds import bare, leaves_out, zeroed
from gradgate.checks.source_masks import is_mask
from gradgate.checks.source_values import Names
from gradgate.checks.trainer_source import called_name, dotted

POWERS = ("square", "abs", "pow")
LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
LIBRARIES = ("torch", "np", "numpy", "jnp")
HOPS = 3  # names that are followed


def means(nodes: Sequence[ast.AST], names: Names) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a function averages over all places, each with the mask that leaves some out.

    Args:
        nodes: the function's own.
        names: what its names hold.
    """
    shares = {
        ast.unparse(node.right)
        for node in nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and ".mean(" in ast.unparse(node.right)
    }
    branches = [
        (block[0].lineno, block[-1].end_lineno or 0)
        for node in nodes
        if isinstance(node, ast.If)
        for block in (node.body, node.orelse)
        if block
    ]
    for node in nodes:
        mask = _of_loss(node, names) or _masked(_averaged(node), names)
        if mask is not None and isinstance(node, ast.expr):
            at = (mask.lineno, node.lineno)
            if any(first <= at[0] <= last < at[1] for first, last in branches):
                continue  # made in a branch that the mean does not stand in
        if mask is not None and not any(ast.unparse(bare(mask)) in share for share in shares):
            yield node, mask  # type: ignore[misc]


def _averaged(node: ast.AST) -> ast.expr | None:
    """What a node is the mean of: by a call, or as a sum that is divided by how many there are."""
    if isinstance(node, ast.Call):
        return _given_to(node, "mean")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.Call):
        summed = _given_to(node.left, "sum")
        return summed if summed is not None and ast.unparse(node.right) == f"{ast.unparse(summed)}.numel()" else None
    return None


def _given_to(call: ast.Call, name: str) -> ast.expr | None:
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == name):
        return None
    if dotted(call.func.value) in LIBRARIES:
        return call.args[0] if call.args else None
    return call.func.value


def _masked(values: ast.expr | None, names: Names) -> ast.expr | None:
    """The mask that has made values 0: by a product, or by what is put in its places."""
    if values is None:
        return None
    if isinstance(values, ast.BinOp) and isinstance(values.op, ast.Mult):
        masks = [side for side in (values.left, values.right) if is_mask(side, names)]
        return masks[0] if len(masks) == 1 else None
    for _ in range(HOPS):
        values = names.held(_powered(bare(values)))
        if (mask := zeroed(values, names)) is not None:
            return mask
    return None


def _powered(node: ast.expr) -> ast.expr:
    """What a node is a power of, or the size."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node.left
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in POWERS:
        return node.args[0] if dotted(node.func.value) == "torch" and node.args else node.func.value
    return node


def _of_loss(node: ast.AST, names: Names) -> ast.expr | None:
    """The mask that both sides of a loss are multiplied by, which averages over all places."""
    if not isinstance(node, ast.Call) or called_name(node) not in LOSSES or len(node.args) != 2:
        return None
    if any(word.arg in ("reduction", "reduce", "size_average") for word in node.keywords):
        return None
    sides = [names.held(each) for each in node.args]
    if not all(isinstance(side, ast.BinOp) and isinstance(side.op, ast.Mult) for side in sides):
        return None
    factors = [{ast.unparse(each): each for each in (side.left, side.right)} for side in sides]  # type: ignore[attr-defined]
    both = [each for text, each in factors[0].items() if text in factors[1] and leaves_out(each, names)]
    return both[0] if both else None
