"""Parts of a model that are copied into others of it ahead of the weights that training starts from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import loads_optimizer
from gradgate.checks.source.run_orders import COPY, LEFT, LOAD, Event, Orders
from gradgate.checks.source.trainer import called_name, calls_in, dotted, given_for, last_attr
from gradgate.checks.source.values import assignments_in, is_part

RESUMES = re.compile(r"resum|restor|restart|continu|last_ckpt|checkpoint|eval|test", re.IGNORECASE)
VIEWS = ("parameters", "named_parameters", "buffers", "children", "modules", "items", "values", "state_dict")
SAME = ("detach", "clone", "to", "float", "data", "contiguous", "cpu")
ROWS = ("enumerate", "reversed", "list", "tuple")
HOPS = 6  # names that are followed to what they hold


@dataclass(frozen=True)
class _Copy:
    """A part that is copied into another, both by the names of a function.

    Args:
        place: the function.
        call: that copies.
        source: what it copies.
        target: into what.
    """

    place: Place
    call: ast.Call
    source: str
    target: str


def copied_parts(own: Places) -> Iterator[tuple[Event, Event]]:
    """The copies, each with the load behind it that brings the source its weights, and not the other part.

    Args:
        own: the functions of a trainer.
    """
    copies = {id(copy.call): copy for place in own.functions for copy in _copies(place) if not _again(copy, own)}
    if not copies:
        return
    marked = {key: (copy.source, copy.target) for key, copy in copies.items()}
    along = frozenset(copy.place for copy in copies.values())
    seen = set[int]()
    for events, _ in Orders(own, frozenset(), marked=marked, along=along).runs():
        for copy, load in _early(events, marked, own):
            if id(copy.node) not in seen:
                seen.add(id(copy.node))
                yield copy, load


def _early(events: list[Event], marked: dict[int, tuple[str, str]], own: Places) -> Iterator[tuple[Event, Event]]:
    pending: dict[str, Event] = {}
    early: dict[str, tuple[Event, Event]] = {}
    for event in events:
        if event.kind == COPY and event.given:
            early.pop(event.given[0], None)
            pending[event.given[0]] = event
        elif event.kind == LOAD and id(event.node) not in marked:
            for target, copy in list(pending.items()):
                if _excludes(copy, event) or _puts_back(target, event):
                    continue
                if is_part(target, event.name) and not _is_partly(event, copy, own):
                    pending.pop(target)  # it has weights of its own
                    early.pop(target, None)
                elif is_part(copy.name, event.name) and not is_of_resume(event):
                    early[target] = copy, event
    yield from early.values()


def _excludes(copy: Event, load: Event) -> bool:
    """Whether what copies is left before the load, or stands in another branch."""
    branches = dict(load.guards)
    return any(
        (branch == LEFT and at not in branches) or branches.get(at, branch) != branch for at, branch in copy.guards
    )


def _puts_back(target: str, load: Event) -> bool:
    """Whether what is loaded is the copy itself: a best state."""
    parts = [part for part in ast.walk(load.node) if isinstance(part, ast.Name | ast.Attribute)]
    return target.rpartition(".")[2] in {dotted(part).rpartition(".")[2] for part in parts}


def _is_partly(load: Event, copy: Event, own: Places) -> bool:
    """Whether a state may lack the other part: it is loaded with keys missing, or is filtered; of a copy that the
    model's own `__init__` makes, only where the loading function names that part."""
    call = load.value
    if not isinstance(call, ast.Call) or not is_part(copy.name, load.name):
        return False
    strict = given_for(call, "strict", 1)
    lax = isinstance(strict, ast.Constant) and strict.value is False
    state = load.place.names.held(call.args[0]) if call.args else None
    filtered = isinstance(state, ast.DictComp) and any(each.ifs for each in state.generators)
    if not lax or filtered or not _is_begun_with(copy.place, own):
        return lax
    words = set(copy.given[0].split(".")) - set(copy.name.split("."))
    texts = (node.value for node in load.place.nodes if isinstance(node, ast.Constant))
    return any(isinstance(text, str) and words & set(text.split(".")) for text in texts)


def _is_begun_with(place: Place, own: Places) -> bool:
    """Whether a method is the `__init__` of its class, or is called by it."""
    first = [each for each in own.methods_of(place.owner) if each.name == "__init__"] if place.owner else []
    return place in first or any(
        dotted(call.func) == f"self.{place.name}" for one in first for call in calls_in(one.function)
    )


def is_of_resume(event: Event) -> bool:
    """Whether what is loaded is a run's that goes on, or is looked at only."""
    told = any(RESUMES.search(test) for test in event.tests) or any(branch == LEFT for _, branch in event.guards)
    return told or bool(RESUMES.search(event.place.name)) or bool(loads_optimizer(event.place.nodes))


def _again(copy: _Copy, own: Places) -> bool:
    """Whether the function that copies is called more than once in a file, or in a loop: a network that is brought
    up to another from time to time."""
    calls = list(own.calls_of(copy.place.name))
    files = [place.file for place, _ in calls]
    loops = [
        call
        for place, call in calls
        for node in place.nodes
        if isinstance(node, ast.For | ast.While) and any(part is call for part in ast.walk(node))
    ]
    return bool(loops) or len(files) != len(set(files))


def _copies(place: Place) -> Iterator[_Copy]:
    if not place.file.has("copy_(", "load_state_dict(", "clone(", "deepcopy("):
        return
    pairs: list[tuple[ast.Call, ast.expr, ast.expr]] = []
    for node in place.nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        if last_attr(node) == "copy_" or (
            last_attr(node) == "load_state_dict" and called_name(node.args[0]) == "state_dict"
        ):
            pairs.append((node, node.func.value, node.args[0]))
    for target, value in assignments_in(place.nodes):
        made = (
            value.args[0] if called_name(value) == "Parameter" and isinstance(value, ast.Call) and value.args else value
        )
        if isinstance(target, ast.Attribute) and isinstance(made, ast.Call) and called_name(made) == "clone":
            pairs.append((made, target, made))
        elif isinstance(target, ast.Attribute | ast.Subscript) and called_name(made) == "deepcopy" and made.args:  # type: ignore[attr-defined]
            pairs.append((made, target, made.args[0]))  # type: ignore[arg-type, attr-defined]
    for call, target, value in pairs:
        to, of = _path(target, place), _path(value, place)
        same_root = to.partition(".")[0] == of.partition(".")[0] != ""
        if same_root and "." in to and "." in of and not is_part(to, of) and not is_part(of, to):
            yield _Copy(place, call, of, to)


def _path(node: ast.expr, place: Place) -> str:
    """What an expression is a part of, from the name of an object on: `self.extra` of what a loop over it names."""
    behind: list[str] = []
    for _ in range(HOPS * 4):
        if isinstance(node, ast.Attribute):
            behind += [] if node.attr in SAME else [node.attr]
            node = node.value
        elif isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in (*VIEWS, *SAME):
            node = node.func.value
        elif isinstance(node, ast.Call) and dotted(node.func) in ROWS and node.args:
            node = node.args[0]
        elif isinstance(node, ast.Name):
            further = _looped(node.id, place) or place.names.held(node)
            is_call = isinstance(further, ast.Call) and called_name(further) in (*VIEWS, *SAME, *ROWS)
            if further is node or not (is_call or isinstance(further, ast.Name | ast.Attribute | ast.Subscript)):
                return ".".join([node.id, *reversed(behind)])
            node = further
        else:
            return ""
    return ""


def _looped(name: str, place: Place) -> ast.expr | None:
    """What a loop goes over whose name it is: of `zip(a, b)` the one in its place."""
    for loop in (node for node in place.nodes if isinstance(node, ast.For)):
        targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
        for at, target in enumerate(targets):
            if dotted(target) != name:
                continue
            if isinstance(loop.iter, ast.Call) and dotted(loop.iter.func) == "zip" and at < len(loop.iter.args):
                return loop.iter.args[at]
            return loop.iter
    return None
