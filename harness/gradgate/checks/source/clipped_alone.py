"""Errors of values that are clipped around their old ones, where nothing chooses between these and the plain ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted, given_by

CLIPS = ("clamp", "clip", "clamp_", "clip_", "clip_by_value")
ERRORS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "MSELoss", "HuberLoss", "SmoothL1Loss")
POWERS = ("square", "abs", "pow")
CHOOSES = ("max", "maximum", "amax", "fmax", "where", "min", "minimum", "amin", "fmin", "topk", "logsumexp")
LIBRARIES = ("torch", "np", "numpy", "jnp", "F")


def clipped_alone(place: Place, own: Places) -> Iterator[tuple[ast.expr, str]]:
    """The errors of a function whose prediction is clipped around an old one, each with what it is of, if alone."""
    errors = [(node, sides) for node in place.nodes if isinstance(node, ast.expr) and (sides := _sides(node))]
    if not errors or _chooses(place, own):
        return
    found = [(node, plain) for node, sides in errors for side in sides if (plain := _clipped(side, place, own))]
    clipped = {id(node) for node, _ in found}
    others = [sides for node, sides in errors if id(node) not in clipped]
    for node, plain in found:
        if not any(plain == ast.unparse(side) for sides in others for side in sides):
            yield node, plain


def _chooses(place: Place, own: Places) -> bool:
    """Whether a function chooses between numbers, or one that calls it does."""
    callers = [caller for caller, call in own.calls_of(place.name) if own.called(call, caller) is place]
    for each in (place, *callers):
        calls = [node for node in each.nodes if isinstance(node, ast.Call) and called_name(node) in CHOOSES]
        if any(len(given_by(call)) > 1 or dotted(call.func).startswith(LIBRARIES) for call in calls):
            return True
    return False


def _sides(node: ast.AST) -> list[ast.expr]:
    """The two sides of an error."""
    if isinstance(node, ast.Call) and called_name(node) in ERRORS and len(node.args) > 1:
        return node.args[:2]
    inner: ast.expr | None = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        inner = node.left
    elif isinstance(node, ast.Call) and called_name(node) in POWERS and isinstance(node.func, ast.Attribute):
        inner = node.args[0] if dotted(node.func.value) in LIBRARIES and node.args else node.func.value
    is_difference = isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub)
    return [inner.left, inner.right] if is_difference else []  # type: ignore[union-attr]


def _clipped(side: ast.expr, place: Place, own: Places) -> str:
    """The value that an expression is, clipped around its old one; empty: it is no such thing."""
    held = place.names.held(side)
    found = _around(held, place)
    called = own.called(held, place) if isinstance(held, ast.Call) and not found else None
    if called is None or called is place or not isinstance(held, ast.Call):
        return found
    given = called.given(held)
    inner = next((plain for value in called.returned if (plain := _around(called.names.held(value), called))), "")
    return ast.unparse(given[inner]) if inner in given else ""


def _around(node: ast.expr, place: Place) -> str:
    """The value in `old + (value - old).clamp(-c, c)` and in `value.clamp(old - c, old + c)`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for old, moved in ((node.left, node.right), (node.right, node.left)):
            moved = place.names.held(moved)
            values = place.names.held(_values_of(moved) or moved)
            is_moved = values is not moved and isinstance(values, ast.BinOp) and isinstance(values.op, ast.Sub)
            if is_moved and ast.unparse(values.right) == ast.unparse(old):  # type: ignore[attr-defined]
                return ast.unparse(values.left)  # type: ignore[attr-defined]
    inner = _values_of(node)
    if inner is None or not isinstance(node, ast.Call):
        return ""
    bounds = [place.names.held(each) for each in given_by(node) if each is not inner]
    sums = [each for each in bounds if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Add | ast.Sub)]
    if len(sums) != 2 or {type(each.op) for each in sums} != {ast.Add, ast.Sub}:
        return ""
    return ast.unparse(inner) if ast.unparse(sums[0].left) == ast.unparse(sums[1].left) else ""


def _values_of(node: ast.expr) -> ast.expr | None:
    """What a call clips."""
    if not isinstance(node, ast.Call) or called_name(node) not in CLIPS or not isinstance(node.func, ast.Attribute):
        return None
    if dotted(node.func.value) in LIBRARIES:
        return node.args[0] if node.args else None
    return node.func.value
