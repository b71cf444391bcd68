"""Best scores, and what is counted since: what decides which checkpoint is kept and when to stop, and is in none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.resuming import Resumes, holds_optimizer, loads_optimizer
from gradgate.checks.source_values import (
    Names,
    assignments_in,
    blocks_in,
    last_name,
    own_nodes,
    parameters_of,
    places_of,
)
from gradgate.checks.trainer_source import File, Function, called_name, calls_in, dotted

BEST = re.compile(r"(^|_)(best|lowest|highest)(_|$)", re.IGNORECASE)
COUNTED = re.compile(r"patience|wait|bad|stale|worse|no_improve|since|not_improved", re.IGNORECASE)
KEPT = re.compile(r"state_dict$|deepcopy$|clone$")  # of what is the best so far
SAVES = re.compile(r"save|checkpoint|ckpt|snapshot|dump", re.IGNORECASE)
KEEPS = re.compile(r"save|state|load|resum|checkpoint|ckpt|snapshot|restor", re.IGNORECASE)
WHOLE = ("vars", "asdict", "dataclasses.asdict", "dict", "torch.save")
FILES = re.compile(r"^(save|write|read|latest|path|prune|folder|dir|exists|list|clear|find|newest|steps?$)(?!.*state)")
READS = ("get", "pop", "setdefault", "getattr", "setattr", "hasattr")  # a text that others are given is no key
JUDGES = re.compile(r"improv|better|is_best|beats", re.IGNORECASE)  # functions that compare
ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


@dataclass(frozen=True)
class Unsaved:
    """What decides, and is lost with the process.

    Args:
        names: how it is written.
        function: where it decides.
        branch: which is taken where a score is better.
        saved: the mapping that has the optimizer and not this, and its file; None: none is written down.
    """

    file: File
    names: tuple[str, ...]
    function: str
    branch: ast.If
    saved: tuple[File, ast.Dict] | None


def unsaved_scores(files: tuple[File, ...]) -> Iterator[Unsaved]:
    """The scores of trainers that load an optimizer's state, which nothing saves or finds again."""
    resumes = Resumes(files)
    for file in (file for file in files if resumes.concern(file)):
        owners = {id(owner) for function, owner in file.functions if resumes.loads(file, function)}
        for function, owner in file.functions:
            here, branches = resumes.loads(file, function), list(_deciding(function))
            for branch, deciding in branches if here or id(owner) in owners else ():
                own = [part for part in deciding if isinstance(part, ast.Name) and not _is_outer(function, part.id)]
                others = [part for part in deciding if part not in own and (here or not isinstance(part, ast.Name))]
                lost = [part for part in others if not any(_keeps(each, part, branch) for each in files)]
                if own and resumes.begins(file, function, branch):
                    better = [each for each, parts in branches if ast.unparse(own[0]) in map(ast.unparse, parts)]
                    lost += [part for part in own if not _keeps_own(function, part.id, better)]
                if lost:
                    texts = tuple(ast.unparse(part) for part in deciding if part in lost)
                    there = ((each, _mapping(each.nodes)) for each in (file, *resumes.files(file, function)))
                    saved = next(((each, found) for each, found in there if found is not None), None)
                    yield Unsaved(file, texts, function.name, branch, saved)


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
    owners = (node for file in files for node in file.nodes if isinstance(node, ast.ClassDef))
    judges = {owner.name: best for owner in owners if (best := set(_judged(owner)))}
    for file in files if judges else ():
        for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
            methods = [part for part in owner.body if isinstance(part, ast.FunctionDef)]
            saved = next((method for method in methods if _mapping(ast.walk(method))), None)
            loading = (one.name == "load_state_dict" or loads_optimizer(own_nodes(one)) for one in methods)
            if saved is None or not any(loading):
                continue
            keeping = [one for one in methods if one is saved or KEEPS.search(one.name)]
            for target, value in assignments_in(ast.walk(owner)):
                kind, name = (
                    called_name(value),
                    dotted(target),
                )
                if kind in judges and name.startswith("self.") and not _is_kept(name, judges[kind], keeping):
                    yield Held(file, name, kind, saved)


def lent_scores(files: tuple[File, ...]) -> Iterator[Held]:
    """Best scores that others keep on what saves and loads a checkpoint, which leaves them out."""
    lent: dict[str, str] = {}  # the attribute, and the class that decides by it
    for function, owner in (each for file in files if file.has("best") for each in file.functions):
        for _, deciding in _deciding(function) if owner is not None else ():
            holders = [part for part in deciding if isinstance(part, ast.Attribute) and dotted(part.value) != "self"]
            lent |= {part.attr: owner.name for part in holders if BEST.search(part.attr) and owner is not None}
    for file in files if lent else ():
        for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
            methods = [part for part in owner.body if isinstance(part, ast.FunctionDef)]
            saved = next((method for method in methods if _mapping(ast.walk(method))), None)
            loads = any(one.name == "load_state_dict" or loads_optimizer(own_nodes(one)) for one in methods)
            begun = {dotted(target) for target, value in assignments_in(ast.walk(owner)) if _is_first(value)}
            if saved is None or not loads:
                continue
            keeping = [one for one in methods if one is saved or KEEPS.search(one.name)]
            for name in (name for name in lent if f"self.{name}" in begun):
                texts = (node for each in files for node in each.nodes if isinstance(node, ast.Constant))
                if not _is_kept(f"self.{name}", set(), keeping) and all(node.value != name for node in texts):
                    yield Held(file, f"self.{name}", lent[name], saved)


def _is_kept(name: str, best: set[str], methods: list[ast.FunctionDef]) -> bool:
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


def _judged(owner: ast.ClassDef) -> Iterator[str]:
    """The attributes in which a class keeps the best score that it is told."""
    methods = [part for part in owner.body if isinstance(part, ast.FunctionDef) and part.name != "__init__"]
    yield from (name for name in _told(methods) if not _finds(owner, ast.parse(f"self.{name}", mode="eval").body))
    for method in methods:
        names = Names(method)
        for block in blocks_in((method, *own_nodes(method))):
            for at, branch in enumerate(block):
                if isinstance(branch, ast.If):
                    leaves = isinstance(branch.body[-1], ast.Return)
                    taken = [*branch.body, *(block[at + 1 :] if leaves else [])]
                    given = [target for target, _ in assignments_in(part for each in taken for part in ast.walk(each))]
                    best = [each for each in given if isinstance(each, ast.Attribute) and BEST.search(last_name(each))]
                    test = names.held(branch.test)
                    best = [target for target in best if _is_compared(test, target)]
                    yield from (target.attr for target in best if not _finds(owner, target))


def _told(methods: list[ast.FunctionDef]) -> Iterator[str]:
    """The attributes of a best score that one method is told, and another holds a score against."""
    for method in methods:
        given = {each.arg for each in parameters_of(method)}
        for target, value in assignments_in(method.body):
            is_own = isinstance(target, ast.Attribute) and dotted(target.value) == "self"
            if is_own and BEST.search(last_name(target)) and dotted(value) in given - {"self"}:
                others = (node for each in methods if each is not method for node in ast.walk(each))
                if any(isinstance(node, ast.Compare) and _is_compared(node, target) for node in others):
                    yield last_name(target)


def _finds(owner: ast.ClassDef, target: ast.expr) -> bool:
    """Whether a class assigns a score what it has read: it finds it again by itself."""
    read = (value for name, value in assignments_in(ast.walk(owner)) if dotted(name) == dotted(target))
    return any(isinstance(part, ast.Subscript) for value in read for part in ast.walk(value))


def _is_outer(function: Function, name: str) -> bool:
    """Whether a name is no local variable of a function."""
    outer = (node for node in own_nodes(function) if isinstance(node, ast.Global | ast.Nonlocal))
    return any(name in node.names for node in outer)


def _mapping(nodes: Iterable[ast.AST]) -> ast.Dict | None:
    """The first mapping among nodes that holds an optimizer's state."""
    return next((node for node in nodes if isinstance(node, ast.Dict) and holds_optimizer(node.values)), None)


def _deciding(function: Function) -> Iterator[tuple[ast.If, list[ast.expr]]]:
    """The branches that are taken where a score is the best so far, with that and what is counted since."""
    names = Names(function)
    for branch in (node for node in own_nodes(function) if isinstance(node, ast.If)):
        given = list(assignments_in(part for inner in branch.body for part in ast.walk(inner)))
        given = [(target, value) for target, value in given if last_name(target)]
        best = [target for target, value in given if BEST.search(last_name(target)) and not _is_first(value)]
        counted = [target for target, value in given if COUNTED.search(last_name(target)) and _is_first(value)]
        called = [dotted(call.func) for part in branch.body for call in calls_in(part)]
        saves = any(SAVES.search(name) or KEPT.search(name) for name in called)
        test = names.held(branch.test)
        best = [target for target in best if _is_compared(test, target)]
        if best and (counted or saves):
            yield branch, best + counted


def _is_compared(test: ast.expr, target: ast.expr) -> bool:
    text = ast.unparse(target)
    for node in ast.walk(test):
        is_order = isinstance(node, ast.Compare) and isinstance(node.ops[0], ORDERS)
        judges = isinstance(node, ast.Call) and bool(JUDGES.search(called_name(node)))
        if (is_order or judges) and _mentions(node, text):
            return True
    return False


def _mentions(node: ast.AST, text: str) -> bool:
    places = (part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute | ast.Subscript))
    return any(ast.unparse(part) == text for part in places)


def _is_first(value: ast.AST | None) -> bool:
    """Whether a value is one to begin with: it is written down, or infinite."""
    if isinstance(value, ast.IfExp):
        return _is_first(value.body) and _is_first(value.orelse)
    if isinstance(value, ast.UnaryOp):
        return _is_first(value.operand)
    if isinstance(value, ast.Call):
        return dotted(value.func) == "float" and all(map(_is_first, value.args))
    name = dotted(value) if value is not None else ""
    return value is None or isinstance(value, ast.Constant) or name.lower().endswith("inf") or name.isupper()


def _keeps(file: File, deciding: ast.expr, branch: ast.If) -> bool:
    """Whether a file may save what decides, or find it again: by its name, among others, or from what is not first."""
    last = last_name(deciding)
    holder = ast.unparse(deciding.value) if isinstance(deciding, ast.Attribute | ast.Subscript) else ""
    nodes, inside = file.nodes, set(map(id, ast.walk(branch)))
    entries = [
        pair for node in nodes if isinstance(node, ast.Dict) for pair in zip(node.keys, node.values, strict=True)
    ]
    first = {id(node.slice) for node in nodes if isinstance(node, ast.Subscript)}
    first |= {id(key) for key, value in entries if _is_first(value)}
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    first |= {id(given) for call in calls if not dotted(call.func).endswith(READS) for given in call.args}
    named = any(isinstance(node, ast.Constant) and node.value == last and id(node) not in first for node in nodes)
    handed = any(isinstance(node, ast.arg) and node.arg == ast.unparse(deciding) for node in nodes)
    whole = any(key is None and ast.unparse(value) == holder for key, value in entries) or any(
        isinstance(node, ast.Attribute) and node.attr == "__dict__" for node in nodes
    )
    if named or handed or (holder and whole):
        return True
    if any(_hands_on(call, deciding, holder) for call in calls):
        return True
    return any(
        last_name(part) == last and not _is_first(value)
        for target, value in assignments_in(node for node in nodes if id(node) not in inside)
        for part in (target.elts if isinstance(target, ast.Tuple) else [target])
    )


def _keeps_own(function: Function, name: str, better: list[ast.If]) -> bool:
    """Whether a function may save a local variable, or find it again: it is given it, assigns it anything but what is
    first or better, puts it somewhere, or hands it to what saves, or with an optimizer to anything.
    """
    nodes, taken = list(ast.walk(function)), {id(node) for branch in better for node in ast.walk(branch)}
    if any(isinstance(node, ast.arg) and node.arg == name for node in nodes):
        return True
    for target, value in assignments_in(nodes):
        stored = any(isinstance(part, ast.Name) and part.id == name for part in places_of(target))
        if stored and id(value) not in taken and not _is_first(value):
            return True
        if isinstance(target, ast.Attribute | ast.Subscript) and _mentions(value, name):
            return True
    for node in nodes:
        given: list[ast.AST] = []
        if isinstance(node, ast.Dict):
            given = [*node.values]
        elif isinstance(node, ast.Call):
            given = [*node.args, *node.keywords]
        with_optimizer = any("opt" in ast.unparse(each).lower() for each in given)
        is_save = isinstance(node, ast.Call) and SAVES.search(dotted(node.func))
        if (with_optimizer or is_save) and any(_mentions(each, name) for each in given):
            return True
    return False


def _hands_on(call: ast.Call, deciding: ast.expr, holder: str) -> bool:
    """Whether a call that saves is given what decides, or all that its holder has; or one has a keyword of its name."""
    called, text = dotted(call.func), ast.unparse(deciding)
    if any(word.arg == last_name(deciding) and not _is_first(word.value) for word in call.keywords):
        return True
    if SAVES.search(called) and any(_mentions(given, text) for given in (*call.args, *call.keywords)):
        return True
    whole = called in WHOLE or called.rpartition(".")[2] in ("dump", "dumps")
    return bool(whole and holder) and any(ast.unparse(given) in (holder, "self") for given in call.args)
