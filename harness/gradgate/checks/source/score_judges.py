"""What keeps the best score that it is told: classes, and functions that are given the mapping or the record of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from gradgate.checks.source.best_scores import BEST, JUDGES, is_first
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted, given_for
from gradgate.checks.source.values import ORDERS, Names, assignments_in, blocks_in, last_name, own_nodes, parameters_of

KEEPER = re.compile(r"best|track|early|stop|patien|keeper", re.IGNORECASE)  # classes of which any attribute may be one


BRINGS = re.compile(r"load|restor|resum|set_state|from_", re.IGNORECASE)  # a state back
READS = re.compile(r"load|read|^get$|^pop$|open", re.IGNORECASE)


@dataclass(frozen=True)
class Judges:
    """What compares a score with the best so far.

    Args:
        classes: by name, with the attributes in which they keep it, and the methods that do.
        functions: by name.
    """

    classes: dict[str, Judge]
    functions: dict[str, Keeper]


@dataclass(frozen=True)
class Judge:
    """A class that keeps the best score.

    Args:
        owner: the class.
        kept: its attributes that hold it.
        told: its methods that are told a score, and those that call one of them.
    """

    owner: ast.ClassDef
    kept: frozenset[str]
    told: frozenset[str]

    def brings_back(self, method: str) -> bool:
        """Whether a method may assign what it keeps: it does, or sets attributes by their names, or is not its own."""
        own = next((one for one in self.owner.body if isinstance(one, ast.FunctionDef) and one.name == method), None)
        if own is None:
            return True
        given = {dotted(target).removeprefix("self.") for target, _ in assignments_in(ast.walk(own))}
        by_name = any(called_name(call) in ("setattr", "vars", "update") for call in calls_in(own))
        return by_name or not given.isdisjoint(self.kept) or "__dict__" in ast.unparse(own)


@dataclass(frozen=True)
class Keeper:
    """A function that keeps the best score in what it is given.

    Args:
        at: the place of that, and its name.
        kept: under what it is kept there.
    """

    at: int
    name: str
    kept: frozenset[str]

    def given(self, call: ast.Call) -> ast.expr:
        """What a call gives it to keep the score in."""
        return given_for(call, self.name, self.at) or ast.Constant(None)


@lru_cache(maxsize=1)
def judges_in(files: tuple[File, ...]) -> Judges:
    """The classes and functions of a trainer that keep the best score they are told."""
    classes: dict[str, Judge] = {}
    functions: dict[str, Keeper] = {}
    for file in files:
        for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
            found = list(_judged(owner))
            if found:
                kept, methods = zip(*found, strict=True)
                told = set(methods)
                for _ in found:
                    told |= {one.name for one in owner.body if isinstance(one, ast.FunctionDef) and _calls(one, told)}
                classes[owner.name] = Judge(owner, frozenset(kept), frozenset(told - {"__init__"}))
        if file.has("best", "lowest", "highest"):
            for function, of_class in file.functions:
                if (keeper := _keeper(function, of_class)) is not None:
                    functions[function.name] = keeper
    return Judges(classes, functions)


def _calls(method: ast.FunctionDef, names: set[str]) -> bool:
    return any(dotted(call.func).removeprefix("self.") in names for call in calls_in(method))


def _judged(owner: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The attributes in which a class keeps the best score that it is told, and the methods that are."""
    methods = [part for part in owner.body if isinstance(part, ast.FunctionDef) and part.name != "__init__"]
    yield from ((name, teller) for name, teller in _told(methods) if not _finds(owner, name, ""))
    any_name = bool(KEEPER.search(owner.name))
    for method in methods:
        names = Names(method)
        for test, target, value in _branches(method):
            named = dotted(target.value) == "self" and (any_name or BEST.search(last_name(target)))
            judged = named and not is_first(value) and is_held_against(test, target, names, methods)
            if judged and not _finds(owner, last_name(target), ast.unparse(value)):
                yield last_name(target), method.name


def _branches(function: Function) -> Iterator[tuple[ast.expr, ast.Attribute | ast.Subscript, ast.expr]]:
    """What is assigned in the branches of a function, each with the test and the value; also behind a branch that
    leaves."""
    for block in blocks_in((function, *own_nodes(function))):
        for at, branch in enumerate(block):
            if isinstance(branch, ast.If):
                leaves = isinstance(branch.body[-1], ast.Return)
                taken = [*branch.body, *(block[at + 1 :] if leaves else [])]
                for target, value in assignments_in(part for each in taken for part in ast.walk(each)):
                    if isinstance(target, ast.Attribute | ast.Subscript):
                        yield branch.test, target, value


def is_held_against(test: ast.expr, target: ast.expr, names: Names, methods: list[ast.FunctionDef]) -> bool:
    """Whether a test holds something against what is assigned: by order, or by a function that is named after it, also
    where the test, or what stands in it, has a name, or is a method of the same class."""
    text = ast.unparse(target)
    for node in names.parts(test):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ORDERS):
            if text in _texts(names.parts(node)):
                return True
        elif isinstance(node, ast.Call):
            if JUDGES.search(called_name(node)) and text in _texts(ast.walk(node)):
                return True
            called = next((each for each in methods if dotted(node.func) == f"self.{each.name}"), None)
            for part in ast.walk(called) if called is not None else ():
                if isinstance(part, ast.Compare) and isinstance(part.ops[0], ORDERS) and text in _texts(ast.walk(part)):
                    return True
    return False


def _texts(nodes: Iterator[ast.AST]) -> set[str]:
    return {ast.unparse(part) for part in nodes if isinstance(part, ast.Name | ast.Attribute | ast.Subscript)}


def _told(methods: list[ast.FunctionDef]) -> Iterator[tuple[str, str]]:
    """The attributes of a best score that one method is told, and another holds a score against."""
    for method in methods:
        given = {each.arg for each in parameters_of(method)}
        for target, value in assignments_in(method.body):
            is_own = isinstance(target, ast.Attribute) and dotted(target.value) == "self"
            if is_own and BEST.search(last_name(target)) and dotted(value) in given - {"self"}:
                others = (node for each in methods if each is not method for node in ast.walk(each))
                text = ast.unparse(target)
                orders = (node for node in others if isinstance(node, ast.Compare) and isinstance(node.ops[0], ORDERS))
                if any(text in _texts(ast.walk(node)) for node in orders):
                    yield last_name(target), method.name


def _finds(owner: ast.ClassDef, name: str, score: str) -> bool:
    """Whether a class assigns a score what it has read, other than the one that it is told: it finds it by itself."""
    for method in (part for part in owner.body if isinstance(part, ast.FunctionDef)):
        given = {each.arg for each in parameters_of(method)} - {"self"} if BRINGS.search(method.name) else set()
        for target, value in assignments_in(ast.walk(method)):
            if dotted(target) == f"self.{name}" and ast.unparse(value) != score:
                read = [part for part in ast.walk(value) if isinstance(part, ast.Subscript)]
                called = any(READS.search(called_name(part)) for part in ast.walk(value)) and not given
                if called or any(dotted(part.value).partition(".")[0] not in given for part in read):
                    return True
    return False


def _keeper(function: Function, owner: ast.ClassDef | None) -> Keeper | None:
    """A function that keeps the best score that it is told in one of its parameters."""
    given = [each.arg for each in parameters_of(function) if each.arg not in ("self", "cls")]
    names = Names(function)
    methods = [part for part in owner.body if isinstance(part, ast.FunctionDef)] if owner is not None else []
    for test, target, value in _branches(function) if given else ():
        base = dotted(target.value)
        named = base in given and BEST.search(f"{base}_{last_name(target)}")
        if named and not is_first(value) and is_held_against(test, target, names, methods):
            return Keeper(given.index(base), base, frozenset({last_name(target)}))
    return None
