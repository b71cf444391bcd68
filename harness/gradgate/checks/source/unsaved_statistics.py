"""Running statistics and annealing counts of plain objects, of which a trainer that goes on from checkpoints saves
nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.best_scores import is_first
from gradgate.checks.source.left_states import LeftState
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import holds_optimizer, loads_optimizer
from gradgate.checks.source.trainer import File, called_name, calls_in, dotted
from gradgate.checks.source.values import assignments_in, last_name

SHOWN = re.compile(
    r"meter|averager|log|speed|timer|throughput|metric|tracker|progress|monitor|window|bar|smooth|loss|clock|eta|watch",
    re.IGNORECASE,
)
KEEPS = re.compile(r"state|save|load|restor|resum|checkpoint|ckpt|snapshot|export|pickle|reset|dump", re.IGNORECASE)
WHOLE = ("__dict__", "vars(", "pickle", "getattr(", "setattr(")
LIMITS = ("min", "max", "clamp", "clip", "exp", "cos", "pow", "float", "linear")
INPLACE = ("lerp_", "mul_")


def unsaved_statistics(files: tuple[File, ...], own: Places) -> Iterator[LeftState]:
    """Those of classes without a base and without methods for their state, which training moves and reads."""
    loading = [place for place in own.functions if place.file.has("load_state_dict") and loads_optimizer(place.nodes)]
    keeping = [place for place in own.functions if KEEPS.search(place.name) or _makes_a_checkpoint(place)]
    if not loading or any(map(_is_whole, keeping)):
        return
    for name, same in sorted(own.classes.items()):
        owner = same[0]
        methods = {part.name: part for part in owner.body if isinstance(part, ast.FunctionDef)}
        plain = len(same) == 1 and not owner.bases and not owner.keywords and name not in own.bases
        if not plain or SHOWN.search(name) or "__init__" not in methods or any(map(KEEPS.search, methods)):
            continue
        begun = {dotted(to): value for to, value in assignments_in(ast.walk(methods["__init__"]))}
        for attribute, method, node in _moved(methods):
            if not (attribute in begun and is_first(begun[attribute])) or not _is_read(attribute, method, methods):
                continue
            holders = {attribute.removeprefix("self."), *_held_as(name, own)}
            if len(holders) < 2 or any(_names(place, holders, method.name) for place in (*keeping, *loading)):
                continue
            if _is_set_outside(holders, attribute, owner, files):
                continue
            file = next(each for each in files if owner in each.nodes)
            told = (
                f"`{attribute}` of {name} moves in training, and no checkpoint holds it: a run that is resumed begins"
            )
            yield LeftState(file, node, f"{name}.{method.name}", f"{told} it anew")
            break


def _makes_a_checkpoint(place: Place) -> bool:
    return any(isinstance(node, ast.Dict) and holds_optimizer(node.values) for node in place.nodes)


def _is_whole(place: Place) -> bool:
    """Whether a function takes an object's state as a whole."""
    if not (_makes_a_checkpoint(place) and place.file.has(*WHOLE)):
        return False
    text = ast.unparse(place.function)
    return any(word in text for word in WHOLE)


def _moved(methods: dict[str, ast.FunctionDef]) -> Iterator[tuple[str, ast.FunctionDef, ast.stmt | ast.expr]]:
    """The attributes that a method makes of what they were and something new, or that are counted up."""
    for method in methods.values():
        if method.name == "__init__":
            continue
        for node in ast.walk(method):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and (name := dotted(node.targets[0])):
                if name.startswith("self.") and _is_a_mean(node.value, name):
                    yield name, method, node
            elif isinstance(node, ast.AugAssign) and ast.unparse(node.value) == "1" and isinstance(node.op, ast.Add):
                name = dotted(node.target)
                if name.startswith("self.") and _anneals(name, method, methods):
                    yield name, method, node
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in INPLACE:
                name = dotted(node.func.value)
                if name.startswith("self."):
                    yield name, method, node


def _is_a_mean(value: ast.expr, name: str) -> bool:
    """Whether a value is a sum with a share of what was there."""
    if not (isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)):
        return False
    shares = (part for part in ast.walk(value) if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult))
    return any(name in (dotted(part.left), dotted(part.right)) for part in shares)


def _anneals(name: str, counts: ast.FunctionDef, methods: dict[str, ast.FunctionDef]) -> bool:
    """Whether another method makes a share, or a power, of a count."""
    for method in methods.values():
        for node in ast.walk(method) if method is not counts else ():
            if not isinstance(node, ast.BinOp):
                continue
            if isinstance(node.op, ast.Pow) and dotted(node.right) == name:
                return True
            if isinstance(node.op, ast.Div) and dotted(node.left) == name and _is_limited(node, method):
                return True
    return False


def _is_limited(share: ast.BinOp, method: ast.FunctionDef) -> bool:
    """Whether a share is held below a limit, or goes through a curve."""
    return any(share in list(ast.walk(call)) for call in calls_in(method) if called_name(call) in LIMITS)


def _is_read(attribute: str, moves: ast.FunctionDef, methods: dict[str, ast.FunctionDef]) -> bool:
    """Whether another method of the class reads an attribute."""
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and dotted(node) == attribute
        for method in methods.values()
        if method is not moves
        for node in ast.walk(method)
    )


def _held_as(name: str, own: Places) -> set[str]:
    """What objects of a class are called that others keep."""
    return {
        last_name(target)
        for place in own.functions
        if place.file.has(f"{name}(")
        for target, value in assignments_in(place.nodes)
        if called_name(value) == name and dotted(target).startswith("self.")
    }


def _names(place: Place, holders: set[str], moves: str) -> bool:
    """Whether a function names one of what holds a statistic, or calls what moves it."""
    called = {id(node.func) for node in place.nodes if isinstance(node, ast.Call)}
    for node in place.nodes:
        if isinstance(node, ast.Attribute) and last_name(node) in holders and id(node) not in called:
            return True
        if isinstance(node, ast.Constant) and node.value in holders:
            return True
        if isinstance(node, ast.Call) and called_name(node) == moves and moves not in ("update", "step", "__call__"):
            return True
    return False


def _is_set_outside(holders: set[str], attribute: str, owner: ast.ClassDef, files: tuple[File, ...]) -> bool:
    """Whether the attribute is assigned, or read whole, through what holds the object."""
    inside = set(map(id, ast.walk(owner)))
    name = attribute.removeprefix("self.")
    for node in (node for file in files if file.has(f".{name}") for node in file.nodes if id(node) not in inside):
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == name
        if stored and isinstance(node, ast.Attribute) and last_name(node.value) in holders:
            return True
    return False
