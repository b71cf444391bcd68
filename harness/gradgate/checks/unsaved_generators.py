"""Generators of an object's own that draw in training and are in no checkpoint, where the global ones are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.left_states import LeftState
from gradgate.checks.objects_in_turn import holds_optimizer_in_turn
from gradgate.checks.random_states import TAKES
from gradgate.checks.restored_models import PROGRESS
from gradgate.checks.resuming import loads_optimizer
from gradgate.checks.run_orders import last_attr
from gradgate.checks.source_places import Place, Places
from gradgate.checks.source_values import assignments_in, last_name
from gradgate.checks.trainer_source import File, called_name, calls_in, dotted, given_by

MAKES = ("default_rng", "RandomState", "Random", "Generator")
SETS = ("manual_seed", "seed", "setstate", "set_state", "initial_seed", "jump", "advance")
GIVES = (
    "bit_generator",
    "getstate",
    "get_state",
    "__getstate__",
    "__reduce__",
    "spawn",
    "clone_state",
    "graphsafe_get_state",
)
WHOLE = ("__dict__", "vars(", "pickle", "getattr(")
KEEPS = re.compile(r"state|save|restor|resum|checkpoint|ckpt|snapshot|pickle|dump", re.IGNORECASE)
HELD_OUT = re.compile(r"eval|valid|test|dev(_|$)|held", re.IGNORECASE)
ITSELF = ("__iter__", "__next__", "__getitem__", "__getitems__", "__call__", "forward")
STILL = ("eval", "no_grad", "inference_mode")


def unsaved_generators(_files: tuple[File, ...], own: Places) -> Iterator[LeftState]:
    """Those that a class makes as its objects are made, or is given, and draws from behind that."""
    takes = any(
        TAKES.search(dotted(node.func))
        for place in own.functions
        if place.file.has("state(")
        for node in place.nodes
        if isinstance(node, ast.Call)
    )
    going_on = (place for place in own.functions if takes and place.file.has("load_state_dict"))
    goes_on = any(loads_optimizer(place.nodes) or _loads_in_turn(place, own) for place in going_on)
    if not goes_on or any(map(_runs_ahead, own.all)):
        return
    training = _in_training(own)
    for first in own.named("__init__"):
        for attribute in _generators(first, own):
            draws = _draw(first, attribute, own, training)
            if draws is None or _is_kept(attribute, first, own) or _is_made_again(first, own):
                continue
            place, call = draws
            kind = first.owner.name if first.owner is not None else ""
            told = f"`{attribute}` of {kind} is a generator of its own that draws in training, and the checkpoint "
            told += "holds the state of the global ones alone: a run that is resumed begins it anew"
            yield LeftState(place.file, call, f"{kind}.{place.name}", told)


def _loads_in_turn(place: Place, own: Places) -> bool:
    return holds_optimizer_in_turn(place, own, "load_state_dict")


def _runs_ahead(place: Place) -> bool:
    """Whether a loop only draws batches, or leaves them out, up to where a run goes on: these draw as they did."""
    for node in place.nodes:
        if (isinstance(node, ast.Call) and called_name(node) == "islice") or called_name(node) == "skip_first_batches":
            return True
        if isinstance(node, ast.For):
            only = node.body[0] if len(node.body) == 1 else None
            if isinstance(only, ast.Expr | ast.Assign) and called_name(only.value) == "next":
                return True
            tests = [
                each.test for each in node.body if isinstance(each, ast.If) and isinstance(each.body[-1], ast.Continue)
            ]
            counted = {dotted(part) for part in ast.walk(node.target)} - {""}
            if any(isinstance(test, ast.Compare) and dotted(test.left) in counted for test in tests):
                return True
    return False


def _is_made(value: ast.expr, own: Places) -> bool:
    """Whether a value is a generator that is made there with a seed: `torch.Generator().manual_seed(1)`."""
    calls = [call for call in calls_in(value) if called_name(call) in MAKES and called_name(call) not in own.classes]
    return any(given_by(call) or called_name(call) == "Generator" for call in calls)


def _generators(first: Place, own: Places) -> Iterator[str]:
    """The attributes in which an `__init__` keeps a generator that it makes, or that it is given by what makes one."""
    for target, value in assignments_in(first.nodes):
        name = dotted(target)
        if not name.startswith("self.") or name.count(".") > 1:
            continue
        held = first.names.held(value)
        if isinstance(held, ast.Name) and held.id in first.parameters and first.owner is not None:
            given = [(place, each) for place, each in own.values_given(first, held.id, made=True)]
            made = [place.names.held(each) for place, each in given]
            kept = any(_hands_to_savers(dotted(each), place) for place, each in given)
            if made and not kept and all(_is_made(each, own) and not _speaks_of_place(each) for each in made):
                yield name
        elif _is_made(held, own) and not _speaks_of_place(held):
            yield name


def _speaks_of_place(value: ast.expr) -> bool:
    """Whether a seed is that of a step or an epoch."""
    return any(PROGRESS.search(dotted(part)) for part in ast.walk(value) if isinstance(part, ast.Name | ast.Attribute))


def _hands_to_savers(name: str, place: Place) -> bool:
    """Whether a function puts a generator into a mapping, asks its state, or gives it to what saves or restores."""
    for node in place.nodes:
        if isinstance(node, ast.Dict) and any(dotted(value) == name for value in node.values):
            return True
        if isinstance(node, ast.Attribute) and node.attr in GIVES and dotted(node.value) == name:
            return True
        if isinstance(node, ast.Call) and KEEPS.search(called_name(node)) and name in map(dotted, given_by(node)):
            return True
    return False


def _is_made_again(first: Place, own: Places) -> bool:
    """Whether objects of the class are made in a loop, with a step or an epoch, or for what is held out."""
    name = first.owner.name if first.owner is not None else ""
    for caller, call in own.calls_of(name):
        loops = [node for node in caller.nodes if isinstance(node, ast.For | ast.While)]
        in_loop = any(part is call for loop in loops for part in ast.walk(loop))
        if in_loop or any(map(_speaks_of_place, given_by(call))):
            return True
    return bool(HELD_OUT.search(name))


def _draw(first: Place, attribute: str, own: Places, training: set[Place]) -> tuple[Place, ast.Call] | None:
    """The first draw of a method that runs in training; None: there is none, or a method seeds the generator anew."""
    found: tuple[Place, ast.Call] | None = None
    for place in own.methods_of(first.owner) if first.owner is not None else ():
        if place is first:
            continue
        for target, _ in assignments_in(place.nodes):
            if dotted(target).startswith(attribute):
                return None
        for node in place.nodes:
            if not isinstance(node, ast.Call):
                continue
            of = node.func.value if isinstance(node.func, ast.Attribute) else None
            drawn = of is not None and dotted(place.names.held(of)) == attribute
            if drawn and called_name(node) in SETS:
                return None
            words = [word.value for word in node.keywords if word.arg == "generator"]
            given = any(dotted(place.names.held(word)) == attribute for word in words)
            drawn = (drawn and called_name(node) not in GIVES) or (given and called_name(node) != "DataLoader")
            if drawn and place in training and found is None and not HELD_OUT.search(place.name):
                found = place, node
    return found


def _is_kept(attribute: str, first: Place, own: Places) -> bool:
    """Whether anything asks a generator for its state, or what saves or loads names it; or takes its object whole."""
    name = attribute.removeprefix("self.")
    for place in own.all:
        keeps = bool(KEEPS.search(place.name)) and not place.is_top
        if keeps and place.file.has(*WHOLE) and any(word in ast.unparse(place.function) for word in WHOLE):
            return True
        if not (place.file.has(name) or place.owner is first.owner):
            continue
        if keeps and any(isinstance(node, ast.Attribute) and node.attr == name for node in place.nodes):
            return True
        asked = (node.value for node in place.nodes if isinstance(node, ast.Attribute) and node.attr in GIVES)
        if any(last_name(place.names.held(of)) == name for of in asked):
            return True
        calls = (node for node in place.nodes if isinstance(node, ast.Call) and KEEPS.search(called_name(node)))
        given = (each for call in calls for each in given_by(call) if isinstance(each, ast.Name | ast.Attribute))
        if any(last_name(each) == name for each in given):
            return True
    return False


def _in_training(own: Places) -> set[Place]:
    """What runs at each turn: the functions that go backward or lead to that, what these call in a loop, or what they
    take rows from, and the methods by which data come; without what evaluates."""
    leading = {place for place in own.functions if any(_last(node) == "backward" for node in place.nodes)}
    new = set(leading)
    while new:
        new = {caller for place in new for caller, call in own.calls_of(place.name)} - leading
        leading |= new
    waiting = [place for place in own.functions if place.name in ITSELF or place in leading]
    found = set(waiting)
    while waiting:
        place = waiting.pop()
        if place not in leading and _evaluates(place):
            continue
        loops = [node for node in place.nodes if isinstance(node, ast.For | ast.While)]
        turning = {id(part) for loop in loops for part in ast.walk(loop)}
        goes_backward = any(_last(node) == "backward" for node in place.nodes)
        for call in (node for node in place.nodes if isinstance(node, ast.Call)):
            for called in own.named(_last(call)):
                once = place in leading and not (goes_backward and not loops) and id(call) not in turning
                if called not in found and called.name != "__init__" and not (once and not _is_generator(called)):
                    found.add(called)
                    waiting.append(called)
    return {place for place in found if place in leading or not _evaluates(place)}


def _last(node: ast.AST) -> str:
    """The name of what is called, whatever it is called of."""
    return last_attr(node) if isinstance(node, ast.Call) else ""


def _is_generator(place: Place) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in place.nodes)


def _evaluates(place: Place) -> bool:
    """Whether a function takes no gradient, or puts the model into eval mode."""
    decorators = (part for each in place.function.decorator_list for part in ast.walk(each))
    return any(last_name(part) in STILL for part in decorators) or any(_last(node) in STILL for node in place.nodes)
