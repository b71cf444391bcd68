"""Merges that refuse unknown keys, and put a mapping in the place of a leaf all the same."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted, given_by

COPIES = ("deepcopy", "copy", "dict", "isinstance", "items", "is_dataclass")


def leaves_overwritten(own: Places) -> Iterator[tuple[Place, ast.AST, str]]:
    """Where a function that goes down a configuration sets a leaf to whatever it is given: place, where, and what."""
    for place in own.functions:
        if not place.file.has(".items()"):
            continue
        again = [node for node in place.nodes if isinstance(node, ast.Call) and called_name(node) == place.name]
        for loop in (node for node in place.nodes if isinstance(node, ast.For)) if again else ():
            target = loop.target
            if called_name(loop.iter) != "items" or not isinstance(target, ast.Tuple) or len(target.elts) != 2:
                continue
            key, value = map(dotted, target.elts)
            puts = [node for node in place.nodes if _puts(node, key, value)]
            refuses = bool(puts) and _refuses_keys(place, key) and _asks_what_is_there(place, value)
            if refuses and not _looks_at(value, place):
                yield place, puts[0], value


def _puts(node: ast.AST, key: str, value: str) -> bool:
    """Whether a key is set to a value, whatever that is."""
    given: ast.expr | None = None
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        given = node.value if dotted(node.targets[0].slice) == key else None
    elif isinstance(node, ast.Call) and dotted(node.func) == "setattr" and len(node.args) == 3:
        given = node.args[2] if dotted(node.args[1]) == key else None
    given = given.orelse if isinstance(given, ast.IfExp) else given
    while isinstance(given, ast.Call) and called_name(given) in ("deepcopy", "copy") and given.args:
        given = given.args[0]
    return given is not None and dotted(given) == value


def _refuses_keys(place: Place, key: str) -> bool:
    """Whether a function raises where a key is not there."""
    for node in place.nodes:
        if isinstance(node, ast.If) and any(isinstance(each, ast.Raise) for each in node.body):
            of_key = any(dotted(part) == key for part in ast.walk(node.test))
            if of_key and ("not in" in ast.unparse(node.test) or "hasattr" in ast.unparse(node.test)):
                return True
    return False


def _tests(place: Place) -> Iterator[tuple[ast.AST, ast.expr]]:
    for node in place.nodes:
        if isinstance(node, ast.If | ast.IfExp | ast.Assert):
            yield node, node.test


def _asks_what_is_there(place: Place, value: str) -> bool:
    """Whether a condition asks if what is there is a section."""
    for _, test in _tests(place):
        for part in ast.walk(test):
            asked = called_name(part) in ("isinstance", "is_dataclass") and isinstance(part, ast.Call) and part.args
            if asked and dotted(part.args[0]) != value:  # type: ignore[attr-defined]
                return True
    return False


def _looks_at(value: str, place: Place) -> bool:
    """Whether a function refuses a value by its type, or gives it to something that may."""
    for node, test in _tests(place):
        asks = any(dotted(part) == value for part in ast.walk(test))
        if asks and (isinstance(node, ast.Assert) or any(isinstance(part, ast.Raise) for part in ast.walk(node))):
            return True
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        name = called_name(call)
        if name == "type" and any(dotted(each) == value for each in given_by(call)):
            return True
        if name in (*COPIES, "setattr", place.name):
            continue
        if any(dotted(part) == value for each in given_by(call) for part in ast.walk(each)):
            return True
    return False
