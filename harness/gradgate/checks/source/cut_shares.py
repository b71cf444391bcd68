"""Coefficients that sum to 1 and are cut to those in use, for the check of shares."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, last_name

COEFFICIENTS = re.compile(
    r"coef|(^|_)(head|horizon|loss)_?(w|weights)(_|$)|(^|_)(lambdas|decays|discounts)(_[A-Z]+)?$", re.IGNORECASE
)


def cut_shares(place: Place, places: Places) -> Iterator[tuple[ast.AST, str]]:
    """Where a function cuts coefficients that sum to 1, and what they are called."""
    for node in place.nodes:
        cut = _cut(node)
        if cut is None or not COEFFICIENTS.search(last_name(cut.value)) or _is_settled(node, cut, place):
            continue
        if _sums_to_one(cut.value, place, places):
            yield node, ast.unparse(cut.value)


def _cut(node: ast.AST) -> ast.Subscript | None:
    """The slice that takes the first of something, or, where the others are set to 0, the rest."""
    if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Subscript):
        zero = isinstance(node.value, ast.Constant) and node.value.value == 0
        part = target.slice
        is_rest = isinstance(part, ast.Slice) and part.upper is None and _is_number_of_some(part.lower)
        return target if zero and is_rest else None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and isinstance(node.slice, ast.Slice):
        part = node.slice
        return node if part.lower is None and part.step is None and _is_number_of_some(part.upper) else None
    return None


def _is_number_of_some(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Call)


def _sums_to_one(node: ast.expr, place: Place, places: Places) -> bool:
    """Whether something was divided by its own sum: here, in its class, or in the function that gives it."""
    values = [value for target, value in assignments_in(place.nodes) if dotted(target) == dotted(node)]
    values = [value for value in values if value.lineno < node.lineno]
    if any(
        isinstance(each, ast.AugAssign)
        and isinstance(each.op, ast.Div)
        and dotted(each.target) == dotted(node)
        and each.lineno < node.lineno
        and _is_sum(each.value, place)
        for each in place.nodes
    ):
        return True
    if values:
        return _is_shared(max(values, key=lambda value: value.lineno), place, places)
    if place.owner is not None and dotted(node).startswith("self."):
        return any(
            dotted(target) == dotted(node) and _is_shared(value, method, places)
            for method in places.methods_of(place.owner)
            for target, value in assignments_in(method.nodes)
        )
    return False


def _is_shared(value: ast.expr, place: Place, places: Places, hops: int = 2) -> bool:
    """Whether a value is one that is divided by its sum, a softmax, or what a function gives that is such."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div):
        return _is_sum(value.right, place)
    if isinstance(value, ast.ListComp | ast.GeneratorExp):
        return _is_shared(value.elt, place, places, hops)
    if not isinstance(value, ast.Call):
        held = place.names.held(value)
        return held is not value and hops > 0 and _is_shared(held, place, places, hops - 1)
    if called_name(value) == "softmax":
        return True
    if isinstance(value.func, ast.Attribute) and called_name(value) in ("to", "float", "tensor", "tolist"):
        inner = value.args[0] if called_name(value) == "tensor" and value.args else value.func.value
        return _is_shared(inner, place, places, hops)
    called = places.called(value, place) if hops else None
    given = [each.value for each in called.nodes if isinstance(each, ast.Return) and each.value] if called else []
    return called is not None and len(given) == 1 and _is_shared(given[0], called, places, hops - 1)


def _is_sum(node: ast.expr, place: Place) -> bool:
    held = place.names.held(node)
    return any(called_name(part) == "sum" for part in ast.walk(held))


def _is_settled(node: ast.AST, cut: ast.Subscript, place: Place) -> bool:
    """Whether a function divides by a sum of what was cut, or of the whole behind the cut."""
    own = ast.unparse(cut.value)
    names = {dotted(target) for target, value in assignments_in(place.nodes) if ast.unparse(cut) in ast.unparse(value)}
    names |= {ast.unparse(cut)} | ({own} if isinstance(node, ast.Assign) else set())
    for each in place.nodes:
        is_division = isinstance(each, ast.BinOp | ast.AugAssign) and isinstance(each.op, ast.Div)
        if is_division and getattr(each, "lineno", 0) >= cut.lineno:
            by = place.names.held(each.right if isinstance(each, ast.BinOp) else each.value)  # type: ignore[attr-defined]
            if any(name and name in ast.unparse(by) for name in names) and "sum" in ast.unparse(by):
                return True
    return False
