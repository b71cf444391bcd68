"""Where a trainer's source keeps the best so far, in a file or in memory, and the loop that this happens in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.references import meant
from gradgate.checks.source.trainer import called_name, calls_in, dotted, given_by, nodes_in
from gradgate.checks.source.values import ORDERS, OTHERS, assignments_in, contains, last_name

BEST = re.compile(r"best", re.IGNORECASE)
BETTER = re.compile(r"improve|better|best|lowest|highest|is_new|offer", re.IGNORECASE)
SAVES = re.compile(r"save|checkpoint|ckpt|snapshot|dump|write|export|store", re.IGNORECASE)
LOADS = re.compile(r"load|restor|from_pretrained|read|resum", re.IGNORECASE)
SPEAKS = re.compile(r"(^|\.)(print|log\w*|info|debug|warning|write_line|echo|add_scalar|set_postfix|report)$")
OF_STATE = re.compile(r"optim|(^|[._])opt\d?$|sched|scaler|stop|meter|tracker|loader|sampler|rng", re.IGNORECASE)
WEIGHTS = re.compile(r"best\w*?(state|weight|model|head|param|path|file|ckpt|checkpoint|dir|snapshot)", re.IGNORECASE)
FILE = re.compile(r"best[\w*-]*\.(pt|pth|ckpt|bin|safetensors|tar)$|^best$", re.IGNORECASE)
OF_FILES = re.compile(r"(exists|is_file|is_dir|isfile|isdir|isinstance|len|hasattr)$")
DEPTH = 2  # calls that are followed


@dataclass(frozen=True)
class Kept:
    """A best that is kept where a score is better.

    Args:
        place: the function that it happens in.
        branch: which is taken then.
        node: the save, or the copy.
        modules: whose state it is, as they are written; none where that is not known.
        name: that holds the copy; empty for a file.
    """

    place: Place
    branch: ast.If
    node: ast.expr
    modules: frozenset[str]
    name: str


@dataclass(frozen=True)
class Around:
    """A loop in which a best is kept.

    Args:
        place: the function that it stands in.
        loop: the outermost one there.
        at: what keeps the best in it: the branch, or a call that leads to it.
    """

    place: Place
    loop: ast.For | ast.While
    at: ast.AST


def kept_bests(own: Places) -> Iterator[Kept]:
    """Those of a trainer."""
    for place in own.functions:
        if not place.file.has("best", "improve", "better"):
            continue
        names = place.names
        for branch in (node for node in place.nodes if isinstance(node, ast.If)):
            if _decides(names.held(branch.test)):
                yield from _in_branch(branch, place, own)


def _decides(test: ast.expr) -> bool:
    """Whether a condition may say that a score is the best so far: it compares, or asks something, and counts none."""
    nodes = list(ast.walk(test))
    compares = any(isinstance(node, ast.Compare) and isinstance(node.ops[0], ORDERS) for node in nodes)
    told = any(BETTER.search(last_name(node)) for node in nodes)
    asks = any(isinstance(node, ast.Call) and not OF_FILES.search(dotted(node.func)) for node in nodes)
    return (compares or told or asks) and not any(isinstance(node, ast.Mod) for node in nodes)


def _in_branch(branch: ast.If, place: Place, own: Places) -> Iterator[Kept]:
    nodes = list(nodes_in(branch.body, *OTHERS, ast.If))
    for target, value in assignments_in(nodes):
        copied = any(dotted(call.func).endswith(("state_dict", "deepcopy", "clone")) for call in calls_in(value))
        if copied and BEST.search(last_name(target)):
            yield Kept(place, branch, value, modules_in([value]), ast.unparse(target))
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = called_name(call)
        told = " ".join(map(ast.unparse, given_by(call)))
        if (
            SAVES.search(name)
            and not SPEAKS.search(dotted(call.func))
            and BEST.search(f"{name} {_without_scores(told)}")
        ):
            yield Kept(place, branch, call, modules_in(_reached(call, place, own)), "")


def _without_scores(told: str) -> str:
    """What a save is given, without the scores that are the best."""
    return re.sub(r"[\w.]*best_?(score|loss|metric|value|acc\w*|ppl|mse|step|epoch)\w*", "", told)


def _reached(call: ast.Call, place: Place, own: Places, depth: int = DEPTH) -> Iterator[ast.AST]:
    yield call
    called = own.called(call, place) if depth else None
    for node in called.nodes if called is not None else ():
        if isinstance(node, ast.Call) and called is not None:
            yield from _reached(node, called, own, depth - 1)


def modules_in(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """The modules whose state expressions take."""
    found: set[str] = set()
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and part.attr == "state_dict":
                found.add(ast.unparse(part.value))
            elif isinstance(part, ast.Call) and dotted(part.func).endswith("deepcopy") and part.args:
                found.add(ast.unparse(part.args[0]))
    return frozenset(name for name in found if not OF_STATE.search(name) and not name.endswith("state_dict()"))


def loops_around(place: Place, node: ast.AST, own: Places, hops: int = DEPTH) -> Iterator[Around]:
    """The loops that a node is run in: of its function, or of those that call it."""
    loops = [one for one in place.nodes if isinstance(one, ast.For | ast.While)]
    around = [loop for loop in loops if contains(loop, node)]
    if around:
        yield Around(place, min(around, key=lambda loop: loop.lineno), node)
    elif hops:
        for caller, call in own.calls_of(place.name):
            if caller.function is not place.function and place in meant(own, call, caller):
                yield from loops_around(caller, call, own, hops - 1)


def is_read(kept: Kept, own: Places, *, by_saves: bool = False) -> bool:
    """Whether anything but a save or a line of the log names what is kept.

    Args:
        kept: the best.
        own: the trainer's functions.
        by_saves: whether a save reads it, too, where it is kept in memory.
    """
    for place in own.functions:
        if not place.file.has("best"):
            continue
        idle = set(_idle(place, kept, by_saves=by_saves))
        for node in place.nodes:
            if id(node) not in idle and _names_it(node, kept):
                return True
    return any(
        isinstance(node, ast.Constant) and isinstance(node.value, str) and FILE.search(node.value)
        for file in {id(place.file): place.file for place in own.functions if not kept.name}.values()
        if file.has("best")
        for node in nodes_in(file.tree.body, ast.FunctionDef, ast.AsyncFunctionDef)
    )


def _names_it(node: ast.AST, kept: Kept) -> bool:
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        last = dotted(node).rpartition(".")[2]
        return last == kept.name.rpartition(".")[2] if kept.name else bool(WEIGHTS.search(last))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value == kept.name.rpartition(".")[2] if kept.name else bool(FILE.search(node.value))
    return False


def _idle(place: Place, kept: Kept, *, by_saves: bool) -> Iterator[int]:
    """What stands in saves, in lines of a log, in `is None`, and in what makes the best's own path."""
    for node in place.nodes:
        if isinstance(node, ast.Call):
            saves = SAVES.search(called_name(node)) and not LOADS.search(dotted(node.func))
            if SPEAKS.search(dotted(node.func)) or (saves and not (kept.name and by_saves)):
                yield from map(id, ast.walk(node))
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot):
            yield from map(id, ast.walk(node))
    for target, value in assignments_in(place.nodes):
        if BEST.search(last_name(target)) and not kept.name:
            yield from map(id, ast.walk(value))
