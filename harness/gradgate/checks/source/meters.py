"""Meters of a trainer's own: what averages the numbers that it is given one by one, with weights or without."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gradgate.checks.source.places import Place
from gradgate.checks.source.trainer import File, called_name, calls_in, dotted
from gradgate.checks.source.values import assignments_in, defaults_of, last_name, places_of


@dataclass(frozen=True)
class Meter:
    """A method of a class that takes the next number of a mean.

    Args:
        owner: the class's name.
        place: the method.
        weight: the argument that says how much the number weighs, which is 1 by default; empty: each is one of many.
    """

    owner: str
    place: Place
    weight: str


def meters_in(files: Iterable[File]) -> dict[tuple[str, str], Meter]:
    """Those of a trainer, by the names of class and method."""
    found = {}
    for file in files:
        for function, owner in file.functions if file.has("+=") else ():
            place = Place(file, function, owner)
            weight = _weight(place) if owner is not None and function.name != "__init__" else None
            if owner is not None and weight is not None:
                found[owner.name, function.name] = Meter(owner.name, place, weight)
    return found


def _weight(place: Place) -> str | None:
    """How a method's first argument is weighed where it is added to one number and its weight to another; None: not."""
    if not place.positional:
        return None
    value, added = place.positional[0], list(_added(place))
    ones = {each.arg for each, default in defaults_of(place.function.args) if getattr(default, "value", None) == 1}
    for one in ones:
        product = any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult) and {value, one} <= _names(part)
                      for each in added for part in ast.walk(each))  # fmt: skip
        if product and any(_names(each) == {one} for each in added):
            return one
    counts = any(isinstance(each, ast.Constant) and each.value == 1 for each in added)
    return "" if counts and not ones and any(_names(each) == {value} for each in added) else None


def _added(place: Place) -> Iterator[ast.expr]:
    for node in place.nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and dotted(node.target).startswith("self."):
            yield node.value


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {"float", "int"}


def kept_meters(nodes: Iterable[ast.AST], meters: Mapping[tuple[str, str], Meter]) -> dict[str, str]:
    """What is assigned a meter, or several in a list or a mapping, and the name of its class."""
    classes = {owner for owner, _ in meters}
    found = {}
    for target, value in assignments_in(nodes):
        made = {called_name(call) for call in calls_in(value)} & classes
        made |= {
            last_name(each) for call in calls_in(value) if called_name(call) == "defaultdict" for each in call.args
        }
        for part in places_of(target) if len(made & classes) == 1 else ():
            found[dotted(part)] = next(iter(made & classes))
    return found


def given_to_meters(
    loop: ast.For, kept: Mapping[str, str], meters: Mapping[tuple[str, str], Meter]
) -> Iterator[tuple[ast.Call, str, Meter]]:
    """The calls in a loop that give a meter a number, with what the meter is called."""
    for call in calls_in(loop):
        holder = call.func.value if isinstance(call.func, ast.Attribute) else None
        while isinstance(holder, ast.Subscript):
            holder = holder.value
        owner = kept.get(dotted(holder)) if holder is not None else None
        if owner is not None and (owner, called_name(call)) in meters:
            yield call, ast.unparse(call.func.value), meters[owner, called_name(call)]  # type: ignore[attr-defined]
