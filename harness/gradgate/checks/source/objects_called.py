"""The methods of objects that a trainer's source calls, by the classes that the objects are made of."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in

CALLS = ("forward", "__call__")
HOPS = 4  # names that one is known by, from where it is made


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


def table_called(call: ast.Call, place: Place, places: Places) -> list[Place]:
    """The functions that a call may go to, of a table that is written down: `MODES[mode](scores)`, or by a name or an
    attribute that an entry of one was put into."""
    entry: ast.expr | None = call.func
    if isinstance(entry, ast.Name):
        entry = place.names.held(entry)
    elif isinstance(entry, ast.Attribute) and dotted(entry).startswith("self.") and place.owner is not None:
        methods = places.methods_of(place.owner)
        given = [one for method in methods for one in assignments_in(method.nodes) if dotted(one[0]) == dotted(entry)]
        entry = given[0][1] if len(given) == 1 else None
    if isinstance(entry, ast.Call) and called_name(entry) == "get" and isinstance(entry.func, ast.Attribute):
        name = dotted(entry.func.value)
    else:
        name = dotted(entry.value) if isinstance(entry, ast.Subscript) else ""
    last = name.rpartition(".")[2]
    tops = [one for top in places.all if top.is_top and last for one in assignments_in(top.nodes)]
    fields = [one for same in places.classes.values() for owner in same for one in assignments_in(owner.body)]
    tables = [value for target, value in (*tops, *(fields if last else ())) if dotted(target) == last]
    if len(tables) != 1 or not isinstance(tables[0], ast.Dict):
        return []
    return [found for value in tables[0].values for found in _of_entry(dotted(value), places)]


def _of_entry(name: str, places: Places) -> list[Place]:
    """The function that an entry of a table names: `weigh`, `Weigher.weigh`."""
    of_class, _, last = name.rpartition(".")
    known = places.named(last) if last else []
    if of_class:
        known = [each for each in known if each.owner is not None and each.owner.name == of_class.rpartition(".")[2]]
    return known if len(known) == 1 else []


def class_of(name: str, place: Place, places: Places) -> ast.ClassDef | None:
    """The class of what a name or an attribute holds, by what it is made of or annotated with; None: not known."""
    known = _known(places)
    if (name, place) not in known:
        made = {kind for kind in _kinds(name, place, places) if kind in places.classes}
        nodes = places.classes[next(iter(made))] if len(made) == 1 else []
        known[name, place] = nodes[0] if len(nodes) == 1 else None
    return known[name, place]


@lru_cache(maxsize=1)
def _known(_: Places) -> dict[tuple[str, Place], ast.ClassDef | None]:
    """The classes that were looked for already, of one trainer."""
    return {}


def _kinds(name: str, place: Place, places: Places, hops: int = HOPS) -> Iterator[str]:
    """The names of what an object is made by."""
    if not hops:
        return
    last = name.rpartition(".")[2]
    if "." in name:
        yield from _kinds_of_attribute(name, last, place, places, hops)
    values = [value for target, value in assignments_in(place.nodes) if dotted(target) == name]
    for value in values:
        yield from _made_by(value, place, places, hops)
    if name in place.parameters:
        annotation = place.parameters[name].annotation
        told = [*_named_in(annotation)] if annotation is not None else []
        yield from told
        for caller, given in places.values_given(place, name, made=True) if not told and not values else ():
            yield from _made_by(given, caller, places, hops)


def _kinds_of_attribute(name: str, last: str, place: Place, places: Places, hops: int) -> Iterator[str]:
    """What an attribute of that last name is made by: of a class's `__init__`, of its own where it is one of `self`."""
    of_self = name == f"self.{last}" and place.owner is not None
    makers = places.named("__init__")
    own = [each for each in makers if each.owner is place.owner] if of_self else []
    given = [each for each in own if any(dotted(target) == name for target, _ in assignments_in(each.nodes))]
    for other in given or makers:
        for target, value in assignments_in(other.nodes):
            if dotted(target) == f"self.{last}":
                yield from _made_by(value, other, places, hops)
    for other in places.methods(last):
        if other.function.decorator_list and other.function.returns is not None and other.owner is place.owner:
            yield dotted(other.function.returns).rpartition(".")[2]  # a property
    for node in place.owner.body if of_self and place.owner is not None else ():
        if isinstance(node, ast.AnnAssign) and dotted(node.target) == last:  # a field
            yield from _named_in(node.annotation)


def _made_by(value: ast.expr, place: Place, places: Places, hops: int) -> Iterator[str]:
    """The names of what makes a value: of a call, also of a function that gives back what it makes; of either of two
    values; of what a name or an attribute of itself holds."""
    if isinstance(value, ast.BoolOp | ast.IfExp):
        for part in value.values if isinstance(value, ast.BoolOp) else (value.body, value.orelse):
            yield from _made_by(part, place, places, hops)
    elif isinstance(value, ast.Name) or dotted(value).startswith("self."):
        yield from _kinds(dotted(value), place, places, hops - 1)
    elif isinstance(value, ast.Call) and (made := called_name(value)):
        yield made
        maker = places.called(value, place) if made not in places.classes and hops > 1 else None
        for given in maker.returned if maker is not None else ():
            yield from _made_by(given, maker, places, hops - 1)  # type: ignore[arg-type]


def _named_in(annotation: ast.expr) -> Iterator[str]:
    return (dotted(part).rpartition(".")[2] for part in ast.walk(annotation) if isinstance(part, ast.Name))
