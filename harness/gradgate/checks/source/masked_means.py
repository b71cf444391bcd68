"""Means that are taken over places which a mask has made 0, for the checks that read the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.checks.source.axis_sizes import axes_in, number_in, size_of
from gradgate.checks.source.masked_thresholds import bare, factors, leaves_out, zeroed
from gradgate.checks.source.masks import is_mask
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import Names

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
    axes, inplace = axes_in(nodes), _in_place(nodes, names)
    for node in nodes:
        mask = _of_loss(node, names) or _masked(_averaged(node, names, axes), names, inplace)
        if mask is not None and isinstance(node, ast.expr):
            at = (mask.lineno, node.lineno)
            if any(first <= at[0] <= last < at[1] for first, last in branches):
                continue  # made in a branch that the mean does not stand in
        if mask is not None and not any(ast.unparse(bare(mask)) in share for share in shares):
            yield node, mask  # type: ignore[misc]


def _averaged(node: ast.AST, names: Names, axes: dict[str, set[int]]) -> ast.expr | None:
    """What a node is the mean of: by a call, or as a sum that is divided by how many there are."""
    if isinstance(node, ast.Call):
        return _given_to(node, "mean")
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
        return None
    total = names.held(node.left.operand if isinstance(node.left, ast.UnaryOp) else node.left)
    total = bare(total.operand if isinstance(total, ast.UnaryOp) else total)
    summed = _given_to(total, "sum") if isinstance(total, ast.Call) else None
    if summed is None:
        return None
    over = _axis_of_sum(total)  # type: ignore[arg-type]
    by = node.right
    if ast.unparse(by) == f"{ast.unparse(summed)}.numel()":
        return summed
    if over is None:
        sides = factors(names.held(by))
        return (
            summed
            if len(sides) == 2 and {0, 1} <= set().union(*(size_of(each, names, axes) for each in sides))
            else None
        )
    return summed if over in (1, -1) and size_of(by, names, axes) & {1, -1} else None


def _axis_of_sum(call: ast.Call) -> int | None:
    """The axis that a sum is over; None: over all, 0 where it is not written as a number."""
    of_library = isinstance(call.func, ast.Attribute) and dotted(call.func.value) in LIBRARIES
    given = [*call.args[of_library:], *(word.value for word in call.keywords if word.arg in ("dim", "axis"))]
    return number_in(given[0]) if given else None


def _given_to(call: ast.Call, name: str) -> ast.expr | None:
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == name):
        return None
    if dotted(call.func.value) in LIBRARIES:
        return call.args[0] if call.args else None
    return call.func.value


def _masked(
    values: ast.expr | None, names: Names, inplace: Sequence[tuple[str, int, ast.expr]] = ()
) -> ast.expr | None:
    """The mask that has made values 0: by a product, or by what is put in its places."""
    if values is None:
        return None
    if sides := factors(values):
        masks = [side for side in sides if is_mask(side, names)]
        return masks[0] if len(masks) == 1 else None
    for _ in range(HOPS):
        name = bare(_powered(bare(values)))
        values = names.held(name)
        for changed, line, mask in inplace:
            if changed == dotted(name) and changed and line < name.lineno and (values is name or line > values.lineno):
                return mask
        if (mask_of := zeroed(values, names)) is not None:
            return mask_of
    return None


def _in_place(nodes: Sequence[ast.AST], names: Names) -> list[tuple[str, int, ast.expr]]:
    """What a mask makes 0 in place, with the line and the mask: `ce *= mask`, `ce[~mask] = 0`."""
    found = []
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult) and leaves_out(node.value, names):
            found.append((dotted(node.target), node.lineno, node.value))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            is_zero = isinstance(node.value, ast.Constant) and node.value.value == 0
            where = names.held(target.slice)
            if is_zero and isinstance(where, ast.Compare | ast.UnaryOp) and leaves_out(where, names):
                found.append((dotted(target.value), node.lineno, target.slice))
    return found


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
