"""Objects that a trainer's source saves or loads one by one out of a mapping, and what a call puts into that."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import loads_optimizer
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, text_of

VIEWS = ("items", "values")


def in_turn(place: Place, method: str) -> Iterator[tuple[ast.Call, ast.expr]]:
    """The calls of a method of each object of a mapping or a row in turn, and that mapping."""
    if not place.file.has(method):
        return
    loops = [node for node in place.nodes if isinstance(node, ast.For | ast.comprehension)]
    over = {dotted(each): _whole(loop.iter) for loop in loops for each in _last_of(loop.target)} if loops else {}
    for node in place.nodes if loops else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
            of = node.func.value
            if isinstance(of, ast.Subscript) and any(dotted(of.slice) == dotted(loop.target) for loop in loops):
                yield node, of.value  # `parts[name]`, for each name
            elif dotted(of) in over:
                yield node, over[dotted(of)]


def _last_of(target: ast.expr) -> list[ast.expr]:
    return target.elts[-1:] if isinstance(target, ast.Tuple) else [target]


def _whole(node: ast.expr) -> ast.expr:
    """The mapping of `parts.items()`."""
    is_view = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VIEWS
    return node.func.value if is_view else node  # type: ignore[attr-defined]


def members(mapping: ast.expr, place: Place) -> list[tuple[str, ast.expr]] | None:
    """The objects of a mapping or a row that is written down, with their keys; None: it is not."""
    held = place.names.held(mapping)
    if isinstance(held, ast.Tuple | ast.List):
        pairs = [each.elts if isinstance(each, ast.Tuple) and len(each.elts) == 2 else [each] for each in held.elts]
        return [(text_of(pair[0]), pair[-1]) for pair in pairs]
    if isinstance(held, ast.Dict):
        found = []
        for key, value in zip(held.keys, held.values, strict=True):
            found += [(text_of(key), value)] if key is not None else members(value, place) or []
        return found
    if isinstance(held, ast.Call) and dotted(held.func) == "dict" and not held.args:
        return _of_words(held, (), place)
    return None


def kept_members(mapping: ast.expr, place: Place, own: Places) -> list[tuple[str, ast.expr]] | None:
    """The same, also of a mapping that an object keeps, which its `__init__` writes down."""
    found = members(mapping, place)
    for first, value in _kept(mapping, place, own) if found is None else ():
        found = members(value, first)
    return found


def _kept(mapping: ast.expr, place: Place, own: Places) -> list[tuple[Place, ast.expr]]:
    """What the `__init__` of a method's class keeps in an attribute."""
    if place.owner is None or not dotted(mapping).startswith("self."):
        return []
    begun = [method for method in own.methods_of(place.owner) if method.name == "__init__"]
    return [
        (first, value)
        for first in begun
        for target, value in assignments_in(first.nodes)
        if dotted(target) == dotted(mapping)
    ]


def given_members(
    mapping: ast.expr, called: Place, call: ast.Call, here: Place, own: Places
) -> list[tuple[str, ast.expr]] | None:
    """What a call puts into a mapping that a function is given, by one argument or as `**parts`; or into one that its
    object was made with, in the function that calls."""
    for first, value in _kept(mapping, called, own):
        made = [node for node in here.nodes if isinstance(node, ast.Call) and own.called(node, here) is first]
        if isinstance(value, ast.Call) and dotted(value.func) == "dict" and len(value.args) == 1:
            value = value.args[0]
        return given_members(value, first, made[0], here, own) if len(made) == 1 and called is not first else None
    name = dotted(mapping)
    words = called.function.args.kwarg
    if words is not None and words.arg == name:
        return _of_words(call, called.parameters, here)
    rows = called.function.args.vararg
    if rows is not None and rows.arg == name:
        return [("", each) for each in call.args[len(called.positional) :]]
    given = called.given(call).get(name)
    return members(given, here) if given is not None else None


def _of_words(call: ast.Call, others: object, here: Place) -> list[tuple[str, ast.expr]]:
    found: list[tuple[str, ast.expr]] = []
    for word in call.keywords:
        if word.arg is None:
            found += members(word.value, here) or []
        elif word.arg not in others:  # type: ignore[operator]
            found.append((word.arg, word.value))
    return found


def is_optimizer(key: str, value: ast.expr, place: Place, own: Places) -> bool:
    """Whether an object is an optimizer, by its name, or one of a class that loads one."""
    if "opt" in f"{key} {dotted(value)}".lower():
        return True
    kind = own.classes.get(called_name(place.names.held(value)), [])
    methods = own.methods_of(kind[0]) if len(kind) == 1 else []
    return any(method.name == "load_state_dict" and loads_optimizer(method.nodes) for method in methods)


def holds_optimizer_in_turn(place: Place, own: Places) -> bool:
    """Whether a function saves objects in turn, and one that it is given anywhere is an optimizer."""
    for _, mapping in in_turn(place, "state_dict"):
        told = [(place, kept_members(mapping, place, own) or [])]
        told += [
            (caller, given_members(mapping, place, call, caller, own) or [])
            for caller, call in own.calls_of(place.name)
            if own.called(call, caller) is place
        ]
        if any(is_optimizer(key, value, where, own) for where, pairs in told for key, value in pairs):
            return True
    return False
