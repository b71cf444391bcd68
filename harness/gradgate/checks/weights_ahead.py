"""Weights of tokens that all heads take from the next token on, beside targets that move with the head."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.head_shifts import HEAD, slices_of, sum_of
from gradgate.checks.source_places import Place, Places
from gradgate.checks.source_values import last_name, places_of
from gradgate.checks.trainer_source import dotted

WEIGHTS = re.compile(r"(^|_)(weights?|w|scores?|importance|advantages?|adv|excess|credits?)(_[A-Z]+)?$", re.IGNORECASE)
TOKENS = re.compile(r"(^|_)(ids?|tokens?|labels?|targets?)(_[A-Z]+)?$", re.IGNORECASE)
LOSS = re.compile(r"(^|_)(ce|nll|xent|loss|losses|cross_entropy)(_|$)", re.IGNORECASE)


def one_slice(place: Place, places: Places) -> Iterator[tuple[ast.Subscript, str]]:
    """The weights that a function takes from one place on for all heads, each with the head's name.

    Args:
        place: the function: its loops, or an argument of it, count the heads.
        places: all functions.
    """
    taken = [node for node in place.nodes if isinstance(node, ast.Subscript) and _begins_at_a_number(node)]
    if not taken:
        return
    for head in _numbers(place):
        if not _moves_targets(place, places, head):
            continue
        for node in taken:
            if _weighs(node, place):
                yield node, head
        return


def _begins_at_a_number(node: ast.Subscript) -> bool:
    """Whether weights of tokens are taken from the second or a later one on, whatever the head: `weights[:, 1:]`."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    slices = slices_of(node)
    if len(parts) != 2 or len(slices) != 2 or slices[0].lower is not None or not WEIGHTS.search(last_name(node.value)):
        return False
    lower = slices[1].lower
    return isinstance(lower, ast.Constant) and isinstance(lower.value, int) and lower.value > 0


def _numbers(place: Place) -> list[str]:
    """The names that may count heads: those of loops over numbers, and arguments."""
    loops = [node for node in place.nodes if isinstance(node, ast.For) and isinstance(node.iter, ast.Call)]
    counted = [node for node in loops if dotted(node.iter.func) in ("range", "enumerate")]  # type: ignore[attr-defined]
    return [*(dotted(places_of(node.target)[0]) for node in counted), *place.parameters]


def _moves_targets(place: Place, places: Places, head: str) -> bool:
    """Whether tokens are taken by as much as a head is ahead, here or in a function that is given its number."""
    for node in place.nodes:
        if isinstance(node, ast.Subscript) and TOKENS.search(last_name(node.value)):
            for part in slices_of(node):
                begin = sum_of(part.lower, place.names, head)
                if begin is not None and begin.get(HEAD, 0) > 0:
                    return True
        elif isinstance(node, ast.Call) and (called := places.called(node, place)) is not None and called is not place:
            names = [name for name, value in called.given(node).items() if dotted(value) == head]
            if any(_moves_targets_itself(called, name) for name in names):
                return True
    return False


def _moves_targets_itself(place: Place, head: str) -> bool:
    sums = [
        sum_of(part.lower, place.names, head)
        for node in place.nodes
        if isinstance(node, ast.Subscript) and TOKENS.search(last_name(node.value))
        for part in slices_of(node)
    ]
    return any(each is not None and each.get(HEAD, 0) > 0 for each in sums)


def _weighs(node: ast.Subscript, place: Place) -> bool:
    """Whether a loss is multiplied by what is taken, itself or by its name."""
    for product in place.nodes:
        if isinstance(product, ast.BinOp) and isinstance(product.op, ast.Mult):
            parts = list(ast.walk(product))
            has_loss = any(isinstance(part, ast.Name) and LOSS.search(part.id) for part in parts)
            held = (part if part is node else _held(part, place) for part in parts)
            if has_loss and any(each is node for each in held):
                return True
    return False


def _held(node: ast.AST, place: Place) -> ast.AST:
    """What a name holds, through slices that cut its end."""
    for _ in range(3):
        node = place.names.held(node) if isinstance(node, ast.Name) else node
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and not _begins_at_a_number(node):
            node = node.value
    return node
