"""Positions that are the numbers of a batch's columns, for the checks that ask where they begin."""

from __future__ import annotations

import ast
import re

from gradgate.checks.source.places import Place
from gradgate.checks.source.trainer import called_name, given_by, nodes_in
from gradgate.checks.source.values import assignments_in, contains, last_name

POSITIONS = re.compile(r"(^|_)pos(ition)?s?(_ids?|_emb\w*)?$|^position_?\w*emb\w*$|^w?pe$", re.IGNORECASE)
_COUNTS_ANEW = ("cumsum", "cummax", "where", "sub_")
_SHAPES = {"expand", "expand_as", "repeat", "unsqueeze", "to", "view", "long", "broadcast_to", "tile"}
_SHAPES |= {"contiguous", "clone"}


def is_handed_on(name: str, place: Place) -> bool:
    """Whether a function gives a value away as it is, and does not only compare or count with it."""
    for node in place.nodes:
        held: list[ast.expr] = []
        if isinstance(node, ast.Call):
            held = given_by(node)
        elif isinstance(node, ast.Return) and node.value is not None:
            held = list(node.value.elts) if isinstance(node.value, ast.Tuple) else [node.value]
        elif isinstance(node, ast.Dict):
            held = node.values
        elif isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name):
            held = [node.value]
        if any(last_name(each.value if isinstance(each, ast.Subscript) else each) == name for each in held):
            return True
    return False


def is_over_a_width(value: ast.expr, place: Place) -> bool:
    """Whether a value is an `arange` over the columns of a batch, in whatever shape."""
    while isinstance(value, ast.Subscript) or (called_name(value) in _SHAPES and isinstance(value, ast.Call)):
        value = value.value if isinstance(value, ast.Subscript) else _of_call(value)
    if not isinstance(value, ast.Call) or called_name(value) != "arange" or not value.args:
        return False
    if len(value.args) > 1 and ast.unparse(value.args[0]) != "0":
        return False
    width = place.names.held(value.args[min(len(value.args), 2) - 1])
    return _is_width(width, place)


def _of_call(call: ast.Call) -> ast.expr:
    return call.func.value if isinstance(call.func, ast.Attribute) else call


def _is_width(width: ast.expr, place: Place) -> bool:
    text = ast.unparse(width)
    if re.search(r"\.shape\[(1|-1)\]$|\.size\((1|-1)\)$|^max\(", text):
        return True
    shapes = (
        target
        for node in place.nodes
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Tuple)
        if ast.unparse(node.value).endswith((".shape", ".size()", ".shape[:2]"))
    )
    return any(len(target.elts) > 1 and ast.unparse(target.elts[1]) == text for target in shapes)


def is_counted_anew(name: str, value: ast.expr, place: Place) -> bool:
    """Whether what always runs behind a value counts the positions of that name from a row's first token, or the value
    is that of rows without a mask."""
    always = list(nodes_in(place.function.body, ast.If))
    runs_always = any(contains(node, value) for node in always if isinstance(node, ast.Assign))
    for node in always if runs_always else place.nodes:
        if isinstance(node, ast.AugAssign) and last_name(node.target) == name and isinstance(node.op, ast.Sub):
            return True
        for target, later in assignments_in([node]):
            if last_name(target) == name and later is not value and is_count(later):
                return True
    return False


def is_count(value: ast.expr) -> bool:
    """Whether a value counts places by a mask, or takes something off."""
    parts = list(ast.walk(value))
    return any(called_name(part) in _COUNTS_ANEW for part in parts) or any(
        isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) for part in parts
    )
