"""The methods of objects that a trainer's source calls, by the classes that the objects are made of."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source_places import Place, Places
from gradgate.checks.source_values import assignments_in
from gradgate.checks.trainer_source import called_name, dotted

CALLS = ("forward", "__call__")


def object_called(call: ast.Call, place: Place, places: Places) -> Place | None:
    """The `forward` or `__call__` of the object that is called, where its class is known."""
    name = dotted(call.func)
    owner = class_of(name, place, places) if name and called_name(call) not in places.classes else None
    methods = [method for method in places.methods_of(owner) if method.name in CALLS] if owner is not None else []
    return methods[0] if len(methods) == 1 else None


def method_called(call: ast.Call, place: Place, places: Places) -> Place | None:
    """The method that is called, of an object whose class is known."""
    name = dotted(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    owner = class_of(name, place, places) if name and name != "self" else None
    methods = [method for method in places.methods_of(owner) if method.name == called_name(call)] if owner else []
    return methods[0] if len(methods) == 1 else None


def class_of(name: str, place: Place, places: Places) -> ast.ClassDef | None:
    """The class of what a name or an attribute holds, by what it is made of or annotated with; None: not known."""
    made = {kind for kind in _kinds(name, place, places) if kind in places.classes}
    nodes = places.classes[next(iter(made))] if len(made) == 1 else []
    return nodes[0] if len(nodes) == 1 else None


def _kinds(name: str, place: Place, places: Places) -> Iterator[str]:
    """The names of what an object is made by."""
    last = name.rpartition(".")[2]
    if "." in name:
        for other in places.named("__init__"):
            for target, value in assignments_in(other.nodes):
                if dotted(target) == f"self.{last}":
                    yield called_name(value)
    for target, value in assignments_in(place.nodes):
        if dotted(target) == name and isinstance(value, ast.Attribute) and dotted(value).startswith("self."):
            yield from _kinds(dotted(value), place, places)
        elif dotted(target) == name:
            yield called_name(value)
    annotation = place.parameters[name].annotation if name in place.parameters else None
    if annotation is not None:
        yield from (dotted(part).rpartition(".")[2] for part in ast.walk(annotation) if isinstance(part, ast.Name))
