"""Best scores of classes that compare by them, which their own state leaves out, or that callbacks keep in memory."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.best_scores import BEST, COUNTED, JUDGES, is_first
from gradgate.checks.source.kept_bests import SAVES, WEIGHTS
from gradgate.checks.source.left_states import WHOLE, LeftState
from gradgate.checks.source.places import Places
from gradgate.checks.source.saved_mappings import entries_of
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import ORDERS, assignments_in, last_name, places_of

PLACES = re.compile(r"step|epoch|iter|path|name|file|dir|at$", re.IGNORECASE)  # of the best, not how good it is
STATES = re.compile(r"^(state|state_dict|on_save_checkpoint|get_state|export)$")
BEGINS = re.compile(r"load|restor|resum|on_(train_begin|init_end|fit_start|train_start)|setup|__init__")
READS = re.compile(r"load|read|open\(|json|from_file|best_metric|checkpoint", re.IGNORECASE)
STOPS = re.compile(r"should_(training_)?stop$|should_save$")
GOES_ON = ("resume_from_checkpoint", "get_last_checkpoint", "ckpt_path=")


def forgotten_bests(files: tuple[File, ...], own: Places) -> Iterator[LeftState]:
    """Of classes with a state that has a count and no best score; of callbacks that have none and keep the best."""
    goes_on = any(file.has(*GOES_ON) for file in files)
    for file in (each for each in files if each.has("best", "lowest", "highest")):
        for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
            names = sorted(_bests(owner)) if file.has("def state_dict") or goes_on else []
            names = [name for name in names if not _is_set_outside(name, owner, files)]
            methods = {part.name: part for part in owner.body if isinstance(part, ast.FunctionDef)}
            if names and {"state_dict", "load_state_dict"} <= methods.keys():
                yield from _left_by_state(file, owner, methods["state_dict"], names)
            elif names and goes_on and _is_callback(owner, own) and not any(map(STATES.search, methods)):
                yield from _in_memory(file, owner, names)


def _bests(owner: ast.ClassDef) -> set[str]:
    """The attributes of a class that hold the best score: compared by order, or by a judge of its own, and assigned."""
    compared: set[str] = set()
    for node in ast.walk(owner):
        is_order = isinstance(node, ast.Compare) and any(isinstance(how, ORDERS) for how in node.ops)
        judges = isinstance(node, ast.Call) and bool(JUDGES.search(called_name(node)))
        if is_order or judges or (isinstance(node, ast.Call) and dotted(node.func) in ("min", "max")):
            compared |= {dotted(part) for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return {
        name.removeprefix("self.")
        for name, _, value in _assigned(owner)
        if name in compared and not is_first(value) and BEST.search(name.removeprefix("self."))
        if not WEIGHTS.search(name) and not PLACES.search(name)
    }


def _assigned(owner: ast.ClassDef) -> Iterator[tuple[str, ast.FunctionDef, ast.expr]]:
    """The attributes of itself that a class assigns, each with the method and the value."""
    for method in (part for part in owner.body if isinstance(part, ast.FunctionDef)):
        for target, value in assignments_in(ast.walk(method)):
            names = (dotted(place) for place in places_of(target))
            yield from ((name, method, value) for name in names if name.startswith("self."))


def _is_set_outside(name: str, owner: ast.ClassDef, files: tuple[File, ...]) -> bool:
    """Whether another object's attribute of that name is read into a mapping, or set."""
    inside = set(map(id, ast.walk(owner)))
    for node in (node for file in files if file.has(f".{name}") for node in file.nodes if id(node) not in inside):
        values: list[ast.expr] = []
        if isinstance(node, ast.Dict):
            values = node.values
        elif isinstance(node, ast.Assign):
            values = [*node.targets]
        parts = (part for value in values for part in ast.walk(value) if isinstance(part, ast.Attribute))
        if any(part.attr == name and dotted(part.value) != "self" for part in parts):
            return True
    return False


def _left_by_state(file: File, owner: ast.ClassDef, save: ast.FunctionDef, names: list[str]) -> Iterator[LeftState]:
    """The best scores that a `state_dict` leaves out which has a count of what is worse."""
    if any(word in ast.unparse(owner) for word in (*WHOLE, "super().state_dict", "setattr(self")):
        return
    entries = [key for node in ast.walk(save) if isinstance(node, ast.Dict) for key in entries_of(node)]
    held = {part.attr for part in ast.walk(save) if isinstance(part, ast.Attribute)}
    count = next((key for key in entries if COUNTED.search(key)), None)
    for name in (name for name in names if count is not None and not {name, f"_{name}"} & {*held, *entries}):
        told = (
            f"{owner.name}.state_dict() has `{count}` and leaves out `{name}`, by which it judges: for a run that is "
        )
        yield LeftState(file, save, f"{owner.name}.state_dict", f"{told}resumed the first score is the best")
        return


def _is_callback(owner: ast.ClassDef, own: Places) -> bool:
    """Whether a class is a callback of a library's, which keeps what it holds in memory."""
    bases = {last_name(base) for base in owner.bases}
    return bool(bases & {"TrainerCallback", "Callback"}) and not bases & own.classes.keys() and len(bases) == 1


def _in_memory(file: File, owner: ast.ClassDef, names: list[str]) -> Iterator[LeftState]:
    """The best scores by which a callback saves or stops, and that nothing finds again."""
    acts = any(
        (isinstance(node, ast.Call) and SAVES.search(called_name(node)))
        or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and STOPS.search(node.attr))
        for node in ast.walk(owner)
    )
    for name in names if acts else ():
        given = [(method, value) for to, method, value in _assigned(owner) if to == f"self.{name}"]
        later = [(method, value) for method, value in given if not is_first(value)]
        if any(BEGINS.search(method.name) or READS.search(ast.unparse(value)) for method, value in later):
            continue
        method, value = later[0]
        told = f"`{name}` of {owner.name} decides what is kept, in memory alone: a run that is resumed overwrites the "
        yield LeftState(file, value, f"{owner.name}.{method.name}", f"{told}best with what is worse")
