"""Starts of documents that are recorded as column 0, where rows are put at a place that depends on the side."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import Names, contains, last_name

SIDE = re.compile(r"(^|_)(side|left)(_|$)")
STARTS = re.compile(r"(^|_)(starts?|begins?|firsts?|offsets?)$")


def recorded(place: Place) -> Iterator[ast.Call]:
    """What a function that puts rows at a side keeps as their place, though it begins at 0: `spans.append((b, 0, n))`.

    Args:
        place: the function.
    """
    for loop in (node for node in place.nodes if isinstance(node, ast.For)):
        inside = list(ast.walk(loop))
        asked = [node for node in inside if isinstance(node, ast.If | ast.IfExp) and _asks_side(node.test)]
        if not asked or not _puts_rows(inside):
            continue
        for call, parts in _kept(inside):
            if _begins_at_0(parts, place.names) and not any(contains(node, call) for node in asked):
                yield call


def walked(place: Place, places: Places, begun: set[str]) -> Iterator[ast.Call]:
    """What a function keeps as the places of each row's documents, which begin at 0, for one that puts rows at a side.

    Args:
        place: the function.
        places: all of them.
        begun: the places that it counts from 0 on for each row.
    """
    found = [
        call
        for call, parts in _kept(place.nodes)
        if len(parts) > 1 and any(dotted(part) in begun for part in parts[1:] if dotted(part))
    ]
    if found and any(_takes_as_it_is(caller, call) for caller, call in places.calls_of(place.name)):
        yield found[0]


def _takes_as_it_is(caller: Place, call: ast.Call) -> bool:
    """Whether a function that puts rows at a side keeps what a call gives, and does not go over it."""
    if not any(isinstance(node, ast.If | ast.IfExp) and _asks_side(node.test) for node in caller.nodes):
        return False
    if not _puts_rows(caller.nodes):
        return False
    names = {
        dotted(target)
        for node in caller.nodes
        if isinstance(node, ast.Assign) and node.value is call
        for target in node.targets
    }
    gone_over = (node.iter for node in caller.nodes if isinstance(node, ast.For | ast.comprehension))
    return not any(dotted(part) in names or part is call for each in gone_over for part in ast.walk(each) if part)


def _kept(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.Call, list[ast.expr]]]:
    """What is appended of several parts, or to starts."""
    for node in nodes:
        if not (isinstance(node, ast.Call) and called_name(node) == "append" and len(node.args) == 1):
            continue
        given = node.args[0]
        if isinstance(given, ast.Tuple | ast.List):
            yield node, list(given.elts)
        elif isinstance(given, ast.Call) and isinstance(given.func, ast.Name | ast.Attribute):
            words = [word.value for word in sorted(given.keywords, key=lambda word: not STARTS.search(word.arg or ""))]
            yield node, [*given.args, *words]
        elif isinstance(node.func, ast.Attribute) and STARTS.search(last_name(node.func.value)):
            yield node, [given, ast.Call(ast.Name("len"), [], [])]


def _begins_at_0(parts: Sequence[ast.expr], names: Names) -> bool:
    """Whether a 0 stands in front of a length."""
    return any(ast.unparse(one) == "0" and _is_length(other, names) for one, other in pairwise(parts))


def _is_length(node: ast.expr, names: Names) -> bool:
    held = names.held(node)
    return isinstance(held, ast.Call) and dotted(held.func) == "len"


def _asks_side(test: ast.expr) -> bool:
    return any(
        SIDE.search(last_name(part)) or (isinstance(part, ast.Constant) and part.value == "left")
        for part in ast.walk(test)
    )


def _puts_rows(nodes: Sequence[ast.AST]) -> bool:
    """Whether tensors are written at `[row, place]`."""
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Subscript)
        and isinstance(node.targets[0].slice, ast.Tuple)
        for node in nodes
    )
