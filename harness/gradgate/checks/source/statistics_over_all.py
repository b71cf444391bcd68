"""Values that are normalised by the mean and the spread of all places, where a mask is applied to the result alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.masked_thresholds import bare, factors, leaves_out
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import places_of

LIBRARIES = ("torch", "np", "numpy", "jnp")
BOTH = ("std_mean", "var_mean")
FILLS = ("masked_fill", "masked_fill_", "where")


def statistics_over_all(place: Place, own: Places) -> Iterator[tuple[ast.expr, str]]:
    """The means of all places that values are reduced by, each with the mask that the result is taken with."""
    for node in place.nodes:
        for values, mask in _masked(node, place):
            for mean in _means(values, place, own):
                yield mean, ast.unparse(mask)


def _masked(node: ast.AST, place: Place) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Values of which a mask leaves some out, in the end, and that mask."""
    names = place.names
    sides = factors(node) if isinstance(node, ast.expr) else []
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult):
        sides = [node.target, node.value]
    if isinstance(node, ast.Call) and called_name(node) in FILLS:
        of_library = isinstance(node.func, ast.Attribute) and dotted(node.func.value) in LIBRARIES
        given = list(node.args)
        if called_name(node) == "where" and len(given) == 3:
            sides = [given[1], given[0]]
        elif len(given) == 2 and isinstance(node.func, ast.Attribute) and not of_library:
            sides = [node.func.value, given[0]]
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        is_zero = isinstance(node.value, ast.Constant) and node.value.value == 0
        sides = [node.targets[0].value, node.targets[0].slice] if is_zero else []
    for one, other in (sides, sides[::-1]) if len(sides) == 2 else ():
        of = other.left if isinstance(other, ast.Compare) else other
        if leaves_out(of, names) and not leaves_out(one, names) and not _is_wider(other):
            yield one, other


def _is_wider(mask: ast.expr) -> bool:
    """Whether a mask is given an axis that it does not have, of features, over which a mean may go."""
    parts = list(ast.walk(mask))
    picks = [part for part in parts if isinstance(part, ast.Subscript) and not isinstance(part.slice, ast.Constant)]
    return bool(picks) or any(called_name(part) == "unsqueeze" for part in parts)


def _means(values: ast.expr, place: Place, own: Places, hops: int = 3) -> Iterator[ast.expr]:
    """The means over all of what values are made of, less which they are these values."""
    for part in _quotient(values, place):
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub):
            centred, mean = bare(part.left), place.names.held(part.right)
            whole = _mean_of(mean, part.right, place)
            if whole is not None and ast.unparse(bare(whole)) == ast.unparse(centred) and not _picked(whole, place):
                yield mean if mean.lineno <= part.lineno else part
                return
        if isinstance(part, ast.Call) and hops and (called := own.called(part, place)) is not None:
            if called is place or called.name == "__init__" or len(part.args) + len(part.keywords) != 1:
                continue  # one that is given a mask as well
            for value in called.returned:
                yield from _means(value, called, own, hops - 1)


def _quotient(values: ast.expr, place: Place, hops: int = 4) -> Iterator[ast.expr]:
    """What values are, and what they are a quotient or a product of, through names."""
    held = bare(place.names.held(values))
    yield held
    if hops and isinstance(held, ast.BinOp) and isinstance(held.op, ast.Div | ast.Mult):
        yield from _quotient(held.left, place, hops - 1)
    elif hops and held is not values and isinstance(held, ast.Name):
        yield from _quotient(held, place, hops - 1)


def _mean_of(value: ast.expr, name: ast.expr, place: Place) -> ast.expr | None:
    """What a value is the mean of, over all places."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "mean":
        of_library = dotted(value.func.value) in LIBRARIES
        given = value.args[1:] if of_library else value.args
        if given or any(word.arg in ("dim", "axis", "where") for word in value.keywords):
            return None
        return value.args[0] if of_library and value.args else value.func.value
    for node in place.nodes:
        both = node.value if isinstance(node, ast.Assign) and called_name(node.value) in BOTH else None
        if not (isinstance(node, ast.Assign) and isinstance(both, ast.Call) and len(both.args) == 1):
            continue
        if dotted(name) in map(dotted, places_of(node.targets[0])):
            return both.args[0]
    return None


def _picked(whole: ast.expr, place: Place) -> bool:
    """Whether what the mean is of has been picked or filled by a mask before."""
    for part in place.names.parts(whole):
        if isinstance(part, ast.Subscript) or called_name(part) in (*FILLS, "masked_select", "nonzero"):
            return True
        if isinstance(part, ast.BinOp) and any(leaves_out(each, place.names) for each in factors(part)):
            return True
    return False
