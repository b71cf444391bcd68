"""Rates of a trainer's source that are asked with a count of micro-batches."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.checks.source.accumulation import every, is_backward, steps_in
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import dotted, nodes_in
from gradgate.checks.source.update_turns import raised_by
from gradgate.checks.source.values import OTHERS, assignments_in, contains, last_name
from gradgate.subjects.settings import is_of_accumulation

LOOPS = ast.For | ast.While


def rates_by_turns(own: Places) -> Iterator[tuple[Place, ast.expr, str]]:
    """Where a rate is made of what is raised at each backward, and the optimizer steps once for several of them.

    Yields:
        The function, the value, and the count as it is written.
    """
    for place in own.functions:
        if not any(map(is_backward, place.nodes)):
            continue
        if place.owner is not None and not any(steps_in(place.nodes)):
            yield from _of_methods(place, own)
        yield from _of_function(place)


def _of_methods(turn: Place, own: Places) -> Iterator[tuple[Place, ast.expr, str]]:
    """Of the methods of a class, of which one goes backward and counts, and another one steps."""
    counts = {text for node in turn.nodes for text in raised_by(node) if text.startswith("self.")}
    methods = [each for each in own.methods_of(turn.owner) if each is not turn] if turn.owner and counts else []
    steps = [each for each in methods if any(steps_in(each.nodes))]
    counts -= {text for each in steps for node in each.nodes for text in raised_by(node)}
    if not counts or not any(_is_called_more_often(turn, step, own) for step in steps):
        return
    for method in methods:
        for value, count in _rates(method.nodes, method, counts):
            if not any(is_of_accumulation(ast.unparse(each)) for each in _makers(value, method, methods)):
                yield method, value, count


def _makers(value: ast.expr, method: Place, methods: list[Place]) -> list[ast.expr]:
    """What the callables of a rate are made by: their lengths may be counted in micro-batches, too."""
    called = {dotted(part.func) for part in method.names.parts(value) if isinstance(part, ast.Call)}
    assigned = [pair for each in methods for pair in assignments_in(each.nodes)]
    return [given for target, given in assigned if dotted(target) in called]


def _is_called_more_often(turn: Place, step: Place, own: Places) -> bool:
    """Whether a function calls one method in a loop, and the other behind it, or now and then."""
    steps = [(here, call) for here, call in own.calls_of(step.name) if here.owner is not step.owner or _of_self(call)]
    for here, call in own.calls_of(turn.name):
        beside = [other for at, other in steps if at is here and _holder(other) == _holder(call)]
        if any(_is_behind(call, other, here.nodes) for other in beside):
            return True
    return False


def _of_self(call: ast.Call) -> bool:
    return _holder(call) == "self"


def _holder(call: ast.Call) -> str:
    return dotted(call.func).rpartition(".")[0]


def _is_behind(turn: ast.AST, step: ast.AST, nodes: Sequence[ast.AST]) -> bool:
    """Whether a step is behind a loop of turns in another loop, or in a branch of it that is taken now and then."""
    around = [node for node in nodes if isinstance(node, LOOPS) and contains(node, turn)]
    both = [loop for loop in around if contains(loop, step)]
    inner = [loop for loop in around if not contains(loop, step)]
    if both and inner:
        return True
    branches = [node for node in nodes if isinstance(node, ast.If) and contains(node, step)]
    branches = [node for node in branches if not contains(node, turn)]
    return bool(both) and any(every(node.test) or is_of_accumulation(ast.unparse(node.test)) for node in branches)


def _of_function(place: Place) -> Iterator[tuple[Place, ast.expr, str]]:
    """Of one function, with a loop over micro-batches in the one over updates."""
    steps = list(steps_in(place.nodes))
    for loop in (node for node in place.nodes if isinstance(node, LOOPS)) if steps else ():
        inside = list(nodes_in(loop.body, *OTHERS))
        backward = [node for node in inside if is_backward(node)]
        if not backward or any(steps_in(inside)) or not any(_is_behind(loop, step, place.nodes) for step in steps):
            continue
        others = [node for node in place.nodes if not contains(loop, node)]
        counts = {text for node in inside for text in raised_by(node)}
        counts -= {text for node in others for text in raised_by(node)} | _begun_anew(loop, place)
        yield from ((place, value, count) for value, count in _rates(others, place, counts))


def _begun_anew(loop: ast.AST, place: Place) -> set[str]:
    """What a loop around sets at each turn: it counts within one update."""
    around = [node for node in place.nodes if isinstance(node, LOOPS) and node is not loop and contains(node, loop)]
    return {dotted(target) for each in around for target, _ in assignments_in(nodes_in(each.body, *OTHERS))}


def _rates(nodes: Sequence[ast.AST], place: Place, counts: set[str]) -> Iterator[tuple[ast.expr, str]]:
    """What a rate is set to where that is made of one of these counts, divided by nothing."""
    for target, value in assignments_in(nodes):
        if last_name(target) != "lr" or not isinstance(target, ast.Subscript | ast.Attribute):
            continue
        parts = list(place.names.parts(value))
        divided = [
            part for part in parts if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Div | ast.FloorDiv)
        ]
        asked = [part for part in parts if isinstance(part, ast.Name | ast.Attribute) and dotted(part) in counts]
        whole = [part for part in asked if not any(contains(each.left, part) for each in divided)]
        yield from ((value, dotted(part)) for part in whole[:1])
