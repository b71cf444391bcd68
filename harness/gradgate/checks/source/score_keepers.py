"""Objects that keep a best score for others, and that the checkpoint of what holds them leaves out."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gradgate.checks.source.best_scores import BEST, deciding_in, is_first, mapping_in
from gradgate.checks.source.resuming import loads_optimizer
from gradgate.checks.source.score_judges import BRINGS, Judge, Judges, judges_in
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted
from gradgate.checks.source.values import assignments_in, last_name, own_nodes, parameters_of

KEEPS = re.compile(r"save|state|load|resum|checkpoint|ckpt|snapshot|restor", re.IGNORECASE)
FILES = re.compile(
    r"^(save|write|flush|read|latest|path|prune|folder|dir|exists|list|clear|find|newest|steps?$)(?!.*state)"
)


@dataclass(frozen=True)
class Held:
    """An object that keeps a best score, and that the checkpoint of what holds it leaves out.

    Args:
        name: the attribute that it is.
        kind: its class.
        saved: the method that makes the checkpoint.
    """

    file: File
    name: str
    kind: str
    saved: Function


def held_scores(files: tuple[File, ...]) -> Iterator[Held]:
    """Objects with a best score of trainers whose checkpoint has the optimizer's state, and none of theirs."""
    judges = judges_in(files)
    told = set[tuple[str, int]]()
    for saver in savers_in(files) if judges.classes or judges.functions else ():
        for name, kind, kept in _held(saver.methods, judges):
            if (name, id(saver.saved)) in told or _is_kept(name, kept, saver.keeping):
                continue
            told.add((name, id(saver.saved)))
            if not _is_found(name, kept, judges.classes.get(kind), files):
                yield Held(saver.file, name, kind, saver.saved)


def _held(methods: list[ast.FunctionDef], judges: Judges) -> Iterator[tuple[str, str, frozenset[str]]]:
    """The attributes that keep a best score, each with its class, or the function that keeps it in them."""
    for method in methods:
        given = {each.arg: ast.unparse(each.annotation) for each in parameters_of(method) if each.annotation}
        for target, value in assignments_in(ast.walk(method)):
            kind = called_name(value) or given.get(dotted(value), "").strip("\"'")
            if kind in judges.classes and dotted(target).startswith("self."):
                yield dotted(target), kind, judges.classes[kind].kept
        for call in calls_in(method):
            keeper = judges.functions.get(called_name(call))
            name = dotted(keeper.given(call)) if keeper is not None else ""
            if keeper is not None and name.startswith("self.") and name.count(".") == 1:
                yield name, f"of {called_name(call)}()", keeper.kept


@dataclass(frozen=True)
class Saver:
    """A class that makes a checkpoint with an optimizer's state, and loads one.

    Args:
        methods: its own, and those of the classes above and below it.
        saved: the one that makes the checkpoint.
        keeping: those that make or load one, by their names.
    """

    file: File
    methods: list[ast.FunctionDef]
    saved: ast.FunctionDef
    keeping: list[ast.FunctionDef]


def savers_in(files: tuple[File, ...]) -> Iterator[Saver]:
    """The classes that make a checkpoint with an optimizer's state, and load one, themselves or one above or below."""
    classes = {node.name: node for file in files for node in file.nodes if isinstance(node, ast.ClassDef)}
    for file in files:
        for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
            own = [part for part in owner.body if isinstance(part, ast.FunctionDef)]
            saved = next((method for method in own if mapping_in(ast.walk(method))), None)
            if saved is None:
                continue
            methods = [
                part for one in _family(owner, classes) for part in one.body if isinstance(part, ast.FunctionDef)
            ]
            if any(one.name == "load_state_dict" or loads_optimizer(own_nodes(one)) for one in methods):
                yield Saver(file, methods, saved, [one for one in methods if one is saved or KEEPS.search(one.name)])


def _family(owner: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """A class, and those above and below it."""
    above = {name: {last_name(base) for base in one.bases} for name, one in classes.items()}
    up, down = _reached({owner.name}, above), {owner.name}
    while more := {name for name, bases in above.items() if bases & down} - down:
        down |= more
    return [owner, *(classes[name] for name in sorted((up | down) - {owner.name}) if name in classes)]


def _reached(names: set[str], above: dict[str, set[str]]) -> set[str]:
    while more := {base for name in names for base in above.get(name, ())} - names:
        names = names | more
    return names


def lent_scores(files: tuple[File, ...]) -> Iterator[Held]:
    """Best scores that others keep on what saves and loads a checkpoint, which leaves them out."""
    lent: dict[str, str] = {}  # the attribute, and the class that decides by it
    for function, owner in (each for file in files if file.has("best") for each in file.functions):
        for _, deciding in deciding_in(function) if owner is not None else ():
            holders = [part for part in deciding if isinstance(part, ast.Attribute) and dotted(part.value) != "self"]
            lent |= {part.attr: owner.name for part in holders if BEST.search(part.attr) and owner is not None}
    for file in files if lent else ():
        for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
            methods = [part for part in owner.body if isinstance(part, ast.FunctionDef)]
            saved = next((method for method in methods if mapping_in(ast.walk(method))), None)
            loads = any(one.name == "load_state_dict" or loads_optimizer(own_nodes(one)) for one in methods)
            begun = {dotted(target) for target, value in assignments_in(ast.walk(owner)) if is_first(value)}
            if saved is None or not loads:
                continue
            keeping = [one for one in methods if one is saved or KEEPS.search(one.name)]
            for name in (name for name in lent if f"self.{name}" in begun):
                texts = (node for each in files for node in each.nodes if isinstance(node, ast.Constant))
                if not _is_kept(f"self.{name}", set(), keeping) and all(node.value != name for node in texts):
                    yield Held(file, f"self.{name}", lent[name], saved)


def _is_kept(name: str, best: Collection[str], methods: list[ast.FunctionDef]) -> bool:
    """Whether methods save or find again what an object holds: all of it, its state, or its best score. What is asked
    to write a file, or to find one, is none of that."""
    for method in methods:
        read = {id(node.value): node.attr for node in ast.walk(method) if isinstance(node, ast.Attribute)}
        for node in ast.walk(method):
            if isinstance(node, ast.Attribute) and dotted(node) == name:
                part = read.get(id(node), "")
                if not part or part in best or not FILES.search(part):
                    return True
    return False


def _is_found(name: str, kept: frozenset[str], judge: Judge | None, files: tuple[File, ...]) -> bool:
    """Whether an object is given its state, or a score that is not the first, wherever it is called by its name."""
    last = name.rpartition(".")[2]
    for file in files:
        if not file.has(last):
            continue
        for node in file.nodes:
            asked = isinstance(node, ast.Attribute) and BRINGS.search(node.attr) and last_name(node.value) == last
            if asked and (judge is None or judge.brings_back(node.attr)):  # type: ignore[attr-defined]
                return True
        for target, value in assignments_in(file.nodes):
            at = dotted(target).split(".")
            if at[-2:-1] == [last] and at[-1] in kept and not is_first(value):
                return True
    return False
