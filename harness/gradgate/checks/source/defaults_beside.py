"""Numbers that an object or a function takes by default, beside what is given the setting of that name."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradgate.checks.source.objects_called import class_of
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in, last_name


@dataclass(frozen=True, eq=False)
class Beside:
    """A call that leaves a number out, and one that is given it.

    Args:
        here: the function that makes or asks by the default.
        call: that leaves it out.
        called: what it goes to.
        argument: that is left out.
        default: of it.
        there: the function that gives the setting to another.
        giving: that call.
    """

    here: Place
    call: ast.Call
    called: Place
    argument: str
    default: str
    there: Place
    giving: ast.Call


def left_beside(
    places: Places,
    defaults: Callable[[Place], dict[str, str]],
    is_setting: Callable[[ast.expr, str, Place], bool],
) -> Iterator[Beside]:
    """Where no call gives an argument, and another function that is asked beside is given the setting of its name.

    What is beside shares what it is given: in one function, or where an object that went by its default is handed to or
    called with the same.

    Args:
        places: the trainer's functions.
        defaults: the arguments of a function that are looked at, each with its default.
        is_setting: whether a value is a setting of that name.
    """
    looked_at = {place: found for place in places.functions if (found := defaults(place))}
    names = {_name_of(place) for place in looked_at}
    wanted = {argument for found in looked_at.values() for argument in found}
    made: dict[Place, list[tuple[Place, ast.Call]]] = {}
    giving: dict[str, list[tuple[Place, ast.Call, Place]]] = {}
    for here in places.functions if wanted else ():
        for call in (node for node in here.nodes if isinstance(node, ast.Call)):
            known = called_name(call) in names
            if not known and not _may_give(call, wanted):
                continue
            called = places.called(call, here)
            if called is None:
                continue
            if called in looked_at:
                made.setdefault(called, []).append((here, call))
            given = called.given(call)
            for argument in wanted & given.keys():
                if last_name(given[argument]) == argument and is_setting(given[argument], argument, here):
                    giving.setdefault(argument, []).append((here, call, called))
    for called, calls in made.items():
        for argument, default in looked_at[called].items():
            if any(argument in called.given(call) or _takes_more(call) for _, call in calls):
                continue
            others = [one for one in giving.get(argument, ()) if one[2] is not called]
            for here, call in calls:
                beside = (one for one in others if _is_beside(here, call, called, one[0], one[1], places))
                with_it = next(beside, None)
                if with_it is not None:
                    yield Beside(here, call, called, argument, default, with_it[0], with_it[1])


def _name_of(place: Place) -> str:
    return place.owner.name if place.owner is not None and place.name == "__init__" else place.name


def _may_give(call: ast.Call, wanted: set[str]) -> bool:
    return any(last_name(each) in wanted for each in given_by(call))


def _takes_more(call: ast.Call) -> bool:
    return any(isinstance(one, ast.Starred) for one in call.args) or any(not word.arg for word in call.keywords)


def _is_beside(here: Place, call: ast.Call, called: Place, there: Place, giving: ast.Call, places: Places) -> bool:
    theirs = _things(giving, there)
    if here is there and _things(call, here) & theirs:
        return True
    if called.owner is None or called.name != "__init__" or here.owner is called.owner:
        return False
    for node in there.nodes:
        if isinstance(node, ast.Call) and node is not giving:
            holder = dotted(node.func)
            names = {holder, holder.rpartition(".")[0]} - {"", "self"}
            if _things(node, there) & theirs and _is_one_of(names, called, there, places):
                return True
    return _is_one_of({name.rpartition(".")[0] for name in theirs} - {"", "self"}, called, there, places)


def _is_one_of(names: set[str], called: Place, there: Place, places: Places) -> bool:
    """Whether one of these names holds an object of the class that the call makes."""
    return any(class_of(name, there, places) is called.owner for name in names)


def _things(call: ast.Call, place: Place) -> set[str]:
    """What a call is given that the function has by a name of its own: no settings, which are all of one object."""
    own = {dotted(target) for target, _ in assignments_in(place.nodes)} | place.parameters.keys()
    named = {dotted(each) for each in given_by(call) if isinstance(each, ast.Name)} & own
    return named | {dotted(each) for each in given_by(call) if isinstance(each, ast.Attribute) and dotted(each)}
