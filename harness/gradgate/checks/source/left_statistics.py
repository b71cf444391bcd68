"""Running statistics that one stage saves beside its model, and another begins anew that loads that model."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import keys_read
from gradgate.checks.source.saved_mappings import LOADS, Saved
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, last_name

STATISTICS = re.compile(
    r"norm(ali[sz](er|ation))?s?$|(^|_)(running\w*|stats|statistics|rms|moments)$|whiten", re.IGNORECASE
)
MODEL = re.compile(r"model|policy|trunk|backbone|actor|critic|net|head|weights", re.IGNORECASE)
OPTIMIZER = re.compile(r"opt", re.IGNORECASE)
DEPTH = 2  # calls that are followed


def left_statistics(saved: list[Saved], own: Places) -> Iterator[tuple[Place, ast.expr, str, str, Saved]]:
    """Where a stage takes the weights of a checkpoint that another one makes, and not the statistics of a class of
    which it makes an object itself: the function, what it asks the checkpoint for, the entry, the class, and what is
    saved."""
    told = set[tuple[int, str]]()
    for one in saved:
        models = {key for key, value in one.entries.items() if MODEL.search(key) and _state_of(value)}
        kept = {key: name for key, value in one.entries.items() if STATISTICS.search(name := _state_of(value))}
        for key, name in kept.items() if models else ():
            kinds = {made for place in own.all for made in _made(place, name) if made in own.classes}
            for place in own.functions:
                node = _takes(place, models, key) if kinds and not _saves(one, place) else None
                reached = _reached(place, own) if node is not None else []
                if node is None or any(_names(key, each) for each in reached):
                    continue
                made = {called_name(call) for each in (*reached, *_beside(place, own)) for call in _calls(each)} & kinds
                if made and (id(node), key) not in told:
                    told.add((id(node), key))
                    yield place, node, key, sorted(made)[0], one


def _state_of(value: ast.expr) -> str:
    """The last name of that whose state a value is."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "state_dict":
        return last_name(value.func.value)
    return ""


def _made(place: Place, name: str) -> Iterator[str]:
    """The classes of which what is called so is made."""
    for target, value in assignments_in(place.nodes):
        if last_name(target) == name:
            yield from (called_name(part) for part in ast.walk(value) if isinstance(part, ast.Call))


def _saves(one: Saved, place: Place) -> bool:
    """Whether a function is of the stage that saves: of the same class, or of the same file where it has none."""
    if place.file is not one.file:
        return False
    owners = [node for node in one.file.nodes if isinstance(node, ast.ClassDef)]
    of = [owner for owner in owners if owner.lineno <= one.call.lineno <= (owner.end_lineno or owner.lineno)]
    return place.owner in of if of else place.name == one.function or _names("optimizer", place)


def _takes(place: Place, models: set[str], key: str) -> ast.expr | None:
    """Where a function that loads a file takes a model out of it, and no optimizer, nor what is asked for."""
    if not any(dotted(call.func) in LOADS for call in _calls(place)):
        return None
    read = {text for text in keys_read(place.nodes) if isinstance(text, str)}
    if key in read or not read & models or any(map(OPTIMIZER.search, read)):
        return None
    for node in place.nodes:
        if isinstance(node, ast.Subscript) and last_name(node) in models:
            return node
    return None


def _calls(place: Place) -> Iterator[ast.Call]:
    return (node for node in place.nodes if isinstance(node, ast.Call))


def _reached(place: Place, own: Places) -> list[Place]:
    """A function and those that it calls."""
    found, waiting = [place], [(place, DEPTH)]
    while waiting:
        here, depth = waiting.pop()
        for call in _calls(here) if depth else ():
            called = own.called(call, here)
            if called is not None and called not in found:
                found.append(called)
                waiting.append((called, depth - 1))
    return found


def _beside(place: Place, own: Places) -> list[Place]:
    """The other methods of its class."""
    return own.methods_of(place.owner) if place.owner is not None else []


def _names(key: str, place: Place) -> bool:
    """Whether a text of a function is a key."""
    return any(isinstance(node, ast.Constant) and node.value == key for node in place.nodes)
