"""Weights of tokens that all heads take from the next token on, beside targets that move with the head."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.head_shifts import HEAD, slices_of, sum_of
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import last_name, places_of

WEIGHTS = re.compile(r"(^|_)(weights?|w|scores?|importance|advantages?|adv|excess|credits?)(_[A-Z]+)?$", re.IGNORECASE)
TOKENS = re.compile(r"(^|_)(ids?|tokens?|labels?|targets?)(_[A-Z]+)?$", re.IGNORECASE)
LABELS = re.compile(r"(^|_)labels?(_[A-Z]+)?$", re.IGNORECASE)
KEEPS = ("float", "to", "type_as", "double", "detach", "long", "bool", "int", "half", "clone", "contiguous")
HOPS = 4  # names and functions that are followed
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


def behind_targets(place: Place, places: Places) -> Iterator[tuple[ast.Subscript, str]]:
    """The weights of tokens that a function takes from the first place on for a head whose targets are further on, each
    with the head's name: of those that are 0 where a token is no label, and so belong to the tokens.

    Args:
        place: the function: its loops, or an argument of it, count the heads.
        places: all functions.
    """
    taken = [node for node in place.nodes if isinstance(node, ast.Subscript) and _begins_at_the_first(node)]
    taken = [node for node in taken if _is_of_labels(node.value, place, places) and _weighs(node, place)]
    for head in _numbers(place) if taken else ():
        if _moves_targets(place, places, head):
            yield from ((node, head) for node in taken)
            return


def _begins_at_the_first(node: ast.Subscript) -> bool:
    """Whether weights of tokens are taken from the first one on, less some at the end: `weights[:, :-head]`."""
    slices = slices_of(node)
    if len(slices) != 2 or not isinstance(node.slice, ast.Tuple) or len(node.slice.elts) != 2:
        return False
    first, second = slices
    cuts = second.upper is not None and second.lower is None and first.lower is first.upper is None
    return cuts and bool(WEIGHTS.search(last_name(node.value)))


def _is_of_labels(weights: ast.expr, place: Place, places: Places, hops: int = HOPS) -> bool:
    """Whether weights are multiplied by, or filled up with, where the labels of the same places count."""
    held = place.names.held(weights)
    if not hops:
        return False
    if isinstance(held, ast.BinOp) and isinstance(held.op, ast.Mult):
        return any(_says_labels(part, place, places, hops) for part in (held.left, held.right)) or any(
            _is_of_labels(part, place, places, hops - 1) for part in (held.left, held.right) if part is not weights
        )
    if isinstance(held, ast.Call):
        if called_name(held) in ("where", "masked_fill") and held.args:
            asked = held.args[0]
            asked = asked.operand if isinstance(asked, ast.UnaryOp) else asked
            return _says_labels(asked, place, places, hops)
        called = places.called(held, place)
        if called is not None:
            return all(_is_of_labels(value, called, places, hops - 1) for value in called.returned)
        if isinstance(held.func, ast.Attribute) and called_name(held) in KEEPS:
            return _is_of_labels(held.func.value, place, places, hops - 1)
    return False


def _says_labels(mask: ast.expr, place: Place, places: Places, hops: int) -> bool:
    """Whether a mask says where the labels count: `labels != -100`, or what a function makes of that."""
    held = place.names.held(mask)
    if isinstance(held, ast.Compare) and len(held.ops) == 1 and isinstance(held.ops[0], ast.NotEq | ast.GtE):
        whole = held.left if not isinstance(held.left, ast.Subscript) or last_name(held.left) else None
        return whole is not None and bool(LABELS.search(last_name(whole)))
    if isinstance(held, ast.Call) and isinstance(held.func, ast.Attribute) and called_name(held) in KEEPS:
        return _says_labels(held.func.value, place, places, hops)
    called = places.called(held, place) if isinstance(held, ast.Call) and hops else None
    if called is None or not isinstance(held, ast.Call):
        return False
    whole_given = all(
        isinstance(each, ast.Name | ast.Attribute) or bool(last_name(each)) for each in called.given(held).values()
    )
    values = called.returned
    return whole_given and bool(values) and all(_says_labels(value, called, places, hops - 1) for value in values)


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
            if has_loss and any(each is node for part in parts for each in _holding(part, place)):
                return True
    return False


def _holding(node: ast.AST, place: Place) -> Iterator[ast.AST]:
    """An expression, and what it is by names and slices that cut its end."""
    for _ in range(HOPS):
        yield node
        if isinstance(node, ast.Name):
            node = place.names.held(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and not _begins_at_a_number(node):
            node = node.value
