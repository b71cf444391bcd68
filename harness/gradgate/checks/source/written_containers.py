"""What functions of a trainer's source write into: whose mapping or list it is, and how deep in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, contains

WRITES = ("update", "setdefault", "pop", "popitem", "clear", "append", "extend", "insert", "remove")
ENTRIES = ("get", "setdefault")
COPIES = ("dict", "copy", "list", "OrderedDict")
HOPS = 3


@dataclass(frozen=True)
class Written:
    """A mapping or a list that is written into.

    Args:
        node: that writes.
        root: the name of what it is, or stands in.
        depth: of how many entries it is one: 0, of none.
        is_of_copy: whether it stands in what a shallow copy has of that.
        is_own: whether the name is a parameter of the function's.
    """

    node: ast.AST
    root: str
    depth: int
    is_of_copy: bool
    is_own: bool


def written_in(place: Place, places: Places, hops: int = HOPS) -> list[Written]:
    """What a function writes into, itself or by functions of the trainer's that it gives it to."""
    found = [one for node, value in _direct(place) if (one := _rooted(node, value, place, places, 0)) is not None]
    calls = [node for node in place.nodes if isinstance(node, ast.Call)] if hops else []
    itself: list[tuple[ast.Call, Place]] = []
    for call in calls:
        called = places.called(call, place)
        if called is place:
            itself.append((call, called))
        elif called is not None:
            found += _handed(call, called, written_in(called, places, hops - 1), place, places)
    for call, called in itself * 2:  # a merge that calls itself, two levels down
        found += _handed(call, called, list(found), place, places)
    return found


def _handed(call: ast.Call, called: Place, there: list[Written], place: Place, places: Places) -> Iterator[Written]:
    """What a call writes into of what it gives, as the function that is called does."""
    given = called.given(call)
    pairs = {(one.root, one.depth, one.is_of_copy) for one in there if one.is_own and one.root in given}
    for name, depth, is_of_copy in sorted(pairs):
        one = _rooted(call, given[name], place, places, depth)
        if one is not None:
            yield Written(call, one.root, one.depth, one.is_of_copy or is_of_copy, one.is_own)


def _direct(place: Place) -> Iterator[tuple[ast.AST, ast.expr]]:
    for node in place.nodes:
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        targets = [node.target] if isinstance(node, ast.AugAssign) else targets
        yield from ((node, each.value) for each in targets if isinstance(each, ast.Subscript))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
            yield node, node.func.value


def _rooted(node: ast.AST, value: ast.expr, place: Place, places: Places, depth: int) -> Written | None:
    """What an expression is an entry of, through names, copies and functions; None: a value of its own."""
    is_of_copy, here, steps = False, place, 0
    while steps < 4 * HOPS:
        steps += 1
        held = here.names.held(value)
        if held is not value:
            if depth and isinstance(value, ast.Name) and _has_own_entries(value.id, here):
                return None
            value = held
        elif isinstance(value, ast.Subscript):
            value, depth = value.value, depth + 1
        elif isinstance(value, ast.Name):
            over = _over(value, here)
            if over is None:
                return Written(node, value.id, depth, is_of_copy, here is place and value.id in place.parameters)
            value, depth = over, depth + 1
        elif isinstance(value, ast.Call) and _is_entry(value):
            value, depth = value.func.value, depth + 1  # type: ignore[attr-defined]
        elif (copied := _copied(value)) is not None:
            if not depth:
                return None
            value, is_of_copy = copied, True
        elif isinstance(value, ast.Call) and (called := places.called(value, here)) and len(called.returned) == 1:
            back = called.returned[0]
            if dotted(back) in called.parameters and called.names.held(back) is back:
                given = called.given(value).get(dotted(back))
                if given is None:
                    return None
                value = given
            elif called is not here:
                value, here = back, called
            else:
                return None
        else:
            return None
    return None


def _is_entry(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr in ENTRIES and bool(call.args)


def _copied(value: ast.expr) -> ast.expr | None:
    """What a shallow copy is of: `dict(table)`, `table.copy()`, `{**table, ...}`, `table | more`."""
    if isinstance(value, ast.Call) and called_name(value) in COPIES:
        if value.args:
            return value.args[0]
        is_method = isinstance(value.func, ast.Attribute) and value.func.attr == "copy"
        return value.func.value if is_method else None  # type: ignore[attr-defined]
    if isinstance(value, ast.Dict) and value.keys and value.keys[0] is None:
        return value.values[0]
    return value.left if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr) else None


def _over(name: ast.Name, place: Place) -> ast.expr | None:
    """The mapping whose entries a loop calls so."""
    for loop in (node for node in place.nodes if isinstance(node, ast.For) and contains(node, name)):
        over = loop.iter
        if not isinstance(over, ast.Call) or not isinstance(over.func, ast.Attribute):
            continue
        target = loop.target
        if over.func.attr == "items" and isinstance(target, ast.Tuple) and len(target.elts) == 2:
            target = target.elts[1]
        elif over.func.attr != "values":
            continue
        if dotted(target) == name.id:
            return over.func.value
    return None


def _has_own_entries(name: str, place: Place) -> bool:
    """Whether copies, or what is made anew, are put in as a mapping's entries."""
    made = ast.Call | ast.Dict | ast.DictComp | ast.List | ast.ListComp
    return any(
        isinstance(target, ast.Subscript) and dotted(target.value) == name and isinstance(value, made)
        for target, value in assignments_in(place.nodes)
    )
