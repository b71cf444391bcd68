"""Best scores, and what is counted since: what decides which checkpoint is kept and when to stop, and is in none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.source.resuming import Resumes, holds_optimizer
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted
from gradgate.checks.source.values import ORDERS, Names, assignments_in, last_name, own_nodes, places_of

BEST = re.compile(r"(^|_)(best|lowest|highest)(_|$)", re.IGNORECASE)
COUNTED = re.compile(r"patience|wait|bad|stale|worse|no_improve|since|not_improved", re.IGNORECASE)
KEPT = re.compile(r"state_dict$|deepcopy$|clone$")  # of what is the best so far
SAVES = re.compile(r"save|checkpoint|ckpt|snapshot|dump", re.IGNORECASE)
WHOLE = ("vars", "asdict", "dataclasses.asdict", "dict", "torch.save")
READS = ("get", "pop", "setdefault", "getattr", "setattr", "hasattr")  # a text that others are given is no key
JUDGES = re.compile(r"improv|better|is_best|beats", re.IGNORECASE)  # functions that compare


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
            here, branches = resumes.loads(file, function), list(deciding_in(function))
            for branch, deciding in branches if here or id(owner) in owners else ():
                own = [part for part in deciding if isinstance(part, ast.Name) and not _is_outer(function, part.id)]
                others = [part for part in deciding if part not in own and (here or not isinstance(part, ast.Name))]
                lost = [
                    part
                    for part in others
                    if _is_begun_alone(part, branch, owner, files)
                    or not any(_keeps(each, part, branch) for each in files)
                ]
                if own and resumes.begins(file, function, branch):
                    better = [each for each, parts in branches if ast.unparse(own[0]) in map(ast.unparse, parts)]
                    lost += [part for part in own if not _keeps_own(function, part.id, better)]
                if lost:
                    texts = tuple(ast.unparse(part) for part in deciding if part in lost)
                    there = ((each, mapping_in(each.nodes)) for each in (file, *resumes.files(file, function)))
                    saved = next(((each, found) for each, found in there if found is not None), None)
                    yield Unsaved(file, texts, function.name, branch, saved)


def _is_outer(function: Function, name: str) -> bool:
    """Whether a name is no local variable of a function."""
    outer = (node for node in own_nodes(function) if isinstance(node, ast.Global | ast.Nonlocal))
    return any(name in node.names for node in outer)


def mapping_in(nodes: Iterable[ast.AST]) -> ast.Dict | None:
    """The first mapping among nodes that holds an optimizer's state."""
    return next((node for node in nodes if isinstance(node, ast.Dict) and holds_optimizer(node.values)), None)


def deciding_in(function: Function) -> Iterator[tuple[ast.If, list[ast.expr]]]:
    """The branches that are taken where a score is the best so far, with that and what is counted since."""
    names = Names(function)
    for branch in (node for node in own_nodes(function) if isinstance(node, ast.If)):
        given = list(assignments_in(part for inner in branch.body for part in ast.walk(inner)))
        given = [(target, value) for target, value in given if last_name(target)]
        best = [target for target, value in given if BEST.search(last_name(target)) and not is_first(value)]
        counted = [target for target, value in given if COUNTED.search(last_name(target)) and is_first(value)]
        called = [dotted(call.func) for part in branch.body for call in calls_in(part)]
        saves = any(SAVES.search(name) or KEPT.search(name) for name in called)
        test = names.held(branch.test)
        best = [target for target in best if is_compared(test, target)]
        if best and (counted or saves):
            yield branch, best + counted


def is_compared(test: ast.expr, target: ast.expr) -> bool:
    """Whether a test holds something against what is assigned: by order, or by a function that is named after it."""
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


def is_first(value: ast.AST | None) -> bool:
    """Whether a value is one to begin with: it is written down, or infinite."""
    if isinstance(value, ast.IfExp):
        return is_first(value.body) and is_first(value.orelse)
    if isinstance(value, ast.UnaryOp):
        return is_first(value.operand)
    if isinstance(value, ast.Call):
        return dotted(value.func) == "float" and all(map(is_first, value.args))
    name = dotted(value) if value is not None else ""
    return value is None or isinstance(value, ast.Constant) or name.lower().endswith("inf") or name.isupper()


def _is_begun_alone(deciding: ast.expr, branch: ast.If, owner: ast.ClassDef | None, files: tuple[File, ...]) -> bool:
    """Whether an attribute of `self` is given nothing but what it begins with and what is better: wherever it is
    written, a log or the best one's file, nothing finds it again. What another class gives its own is left out."""
    if owner is None or not isinstance(deciding, ast.Attribute) or dotted(deciding.value) != "self":
        return False
    name, left = deciding.attr, set(map(id, ast.walk(branch)))
    for file in files:
        if file.has("setattr(self", "self.__dict__", "vars(self"):
            return False
        strangers = [node for node in file.nodes if isinstance(node, ast.ClassDef) and not _are_kin(node, owner)]
        judged = [node for node in file.nodes if isinstance(node, ast.If) and _asks(node, name)]
        inside = left | {id(part) for node in judged for part in ast.walk(node)}
        foreign = {id(part) for node in strangers for part in ast.walk(node)}
        for node in (node for node in file.nodes if id(node) not in inside):
            for target, value in assignments_in([node]):
                own = [part for part in places_of(target) if isinstance(part, ast.Attribute) and part.attr == name]
                own = [part for part in own if not (id(node) in foreign and dotted(part) == f"self.{name}")]
                if own and not is_first(value):
                    return False
    return True


def _are_kin(one: ast.ClassDef, other: ast.ClassDef) -> bool:
    """Whether two classes are one, or one is a base of the other."""
    bases = [{dotted(base).rpartition(".")[2] for base in node.bases} for node in (one, other)]
    return one is other or other.name in bases[0] or one.name in bases[1]


def _asks(branch: ast.If, name: str) -> bool:
    """Whether a branch is taken by what an attribute of this name is."""
    return any(isinstance(node, ast.Attribute) and node.attr == name for node in ast.walk(branch.test))


def _keeps(file: File, deciding: ast.expr, branch: ast.If) -> bool:
    """Whether a file may save what decides, or find it again: by its name, among others, or from what is not first."""
    last = last_name(deciding)
    holder = ast.unparse(deciding.value) if isinstance(deciding, ast.Attribute | ast.Subscript) else ""
    nodes, inside = file.nodes, set(map(id, ast.walk(branch)))
    entries = [
        pair for node in nodes if isinstance(node, ast.Dict) for pair in zip(node.keys, node.values, strict=True)
    ]
    first = {id(node.slice) for node in nodes if isinstance(node, ast.Subscript)}
    first |= {id(key) for key, value in entries if is_first(value)}
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
        last_name(part) == last and not is_first(value)
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
        if stored and id(value) not in taken and not is_first(value):
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
    if any(word.arg == last_name(deciding) and not is_first(word.value) for word in call.keywords):
        return True
    if SAVES.search(called) and any(_mentions(given, text) for given in (*call.args, *call.keywords)):
        return True
    whole = called in WHOLE or called.rpartition(".")[2] in ("dump", "dumps")
    return bool(whole and holder) and any(ast.unparse(given) in (holder, "self") for given in call.args)
