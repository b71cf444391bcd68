"""State that no checkpoint of a trainer holds: counts beside a best score, and objects with a state of their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import holds_optimizer, loads_optimizer
from gradgate.checks.source.saved_mappings import entries_of
from gradgate.checks.source.score_keepers import KEEPS, Saver, savers_in
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import Names, assignments_in, last_name

COUNTS = re.compile(r"stale|bad|worse|wait|no_?improv|without|since|plateau|stagna|strike|num_bad", re.IGNORECASE)
BEST = re.compile(r"best|lowest|highest", re.IGNORECASE)
STATE = ("state_dict", "load_state_dict")
WHOLE = ("__dict__", "vars(self", "asdict(self", "__getstate__")
SHARES = ("lerp_", "mul_", "add_", "_foreach_lerp_", "lerp")  # move what is there
HOPS = 3  # objects in objects that are followed


@dataclass(frozen=True)
class LeftState:
    """What a checkpoint leaves out.

    Args:
        file: where the finding is.
        node: itself.
        function: in which.
        told: what is left out.
    """

    file: File
    node: ast.AST
    function: str
    told: str


def left_states(files: tuple[File, ...], own: Places) -> Iterator[LeftState]:
    """Counts that a `state_dict` leaves out which has the best score, or what is moved by them, and objects whose
    `state_dict` nothing calls."""
    for file in files:
        if file.has("def state_dict"):
            for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
                yield from _left_counts(file, owner, files)
                yield from _left_shares(file, owner, files)
    asked = any(isinstance(node, ast.Constant) and node.value == "state_dict" for file in files for node in file.nodes)
    told = set[str]()
    for saver in savers_in(files) if not asked else ():
        for left in _left_objects(saver, files, own):
            if left.told not in told:
                told.add(left.told)
                yield left


def _left_counts(file: File, owner: ast.ClassDef, files: tuple[File, ...]) -> Iterator[LeftState]:
    methods = {part.name: part for part in owner.body if isinstance(part, ast.FunctionDef)}
    save = methods.get("state_dict")
    if save is None or "load_state_dict" not in methods or any(word in ast.unparse(save) for word in WHOLE):
        return
    entries = [entry for node in ast.walk(save) if isinstance(node, ast.Dict) for entry in entries_of(node).items()]
    if not any(BEST.search(key) for key, _ in entries):
        return
    held = {part.attr for part in ast.walk(save) if isinstance(part, ast.Attribute)}
    compared = _compared(files)
    for name in sorted(set(_raised(owner)) - held):
        if COUNTS.search(name) and name in compared and not _is_written(name, files):
            best = next(key for key, _ in entries if BEST.search(key))
            told = (
                f"{owner.name}.state_dict() has `{best}` and leaves out `{name}`, which says when to stop: a run that "
            )
            yield LeftState(file, save, f"{owner.name}.state_dict", f"{told}is resumed waits anew")


def _left_shares(file: File, owner: ast.ClassDef, files: tuple[File, ...]) -> Iterator[LeftState]:
    """Counts by which a method moves what a `state_dict` has, and which that leaves out."""
    methods = {part.name: part for part in owner.body if isinstance(part, ast.FunctionDef)}
    save, load = methods.get("state_dict"), methods.get("load_state_dict")
    if save is None or load is None or any(word in ast.unparse(save) for word in (*WHOLE, "super(", "getattr(")):
        return
    held = {dotted(part) for part in ast.walk(save) if isinstance(part, ast.Attribute)}
    named = {part.value for part in ast.walk(save) if isinstance(part, ast.Constant)}
    known = held | {dotted(part) for part in ast.walk(load) if isinstance(part, ast.Attribute)}
    begun = {dotted(to) for to, value in assignments_in(ast.walk(methods["__init__"]))} if "__init__" in methods else {}
    for method in methods.values():
        if method in (save, load) or re.search(r"^__init__$|load|reset|restore|clear", method.name):
            continue
        for name, moved in _moved_by(method, held):
            left = name in begun and name not in known and name.removeprefix("self.") not in named
            if left and not _is_written(name.removeprefix("self."), files):
                told = f"{owner.name}.state_dict() has `{moved.removeprefix('self.')}` and leaves out "
                told += (
                    f"`{name.removeprefix('self.')}`, by which {method.name}() moves it: a run that is resumed begins"
                )
                yield LeftState(file, save, f"{owner.name}.state_dict", f"{told} that anew")
                return


def _moved_by(method: ast.FunctionDef, held: set[str]) -> Iterator[tuple[str, str]]:
    """The counts that a method raises, each with an attribute of what is held that it moves by a share of them."""
    nodes, names = list(ast.walk(method)), Names(method)
    assigned = [(dotted(to), value) for to, value in assignments_in(nodes)]
    parts = {id(value): {dotted(part) for part in names.parts(value)} for _, value in assigned}
    raised = {dotted(node.target) for node in nodes if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add)}
    raised |= {name for name, value in assigned if name in parts[id(value)] and not isinstance(value, ast.Call)}
    for name in sorted(each for each in raised - held if each.startswith("self.")):
        for to, value in assigned:
            if to in held and {to, name} <= parts[id(value)]:
                yield name, to
        for call in (node for node in nodes if isinstance(node, ast.Call) and called_name(node) in SHARES):
            shared = {dotted(part) for each in call.args for part in names.parts(each)}
            moved = sorted(held & {dotted(node) for node in nodes if isinstance(node, ast.Attribute)})
            if name in shared and moved:
                yield name, moved[0]


def _raised(owner: ast.ClassDef) -> Iterator[str]:
    """The attributes that a class counts up by one."""
    for node in ast.walk(owner):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and dotted(node.target).startswith("self."):
            yield dotted(node.target).removeprefix("self.")
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Add):
            name = dotted(node.targets[0])
            if name.startswith("self.") and name in (dotted(node.value.left), dotted(node.value.right)):
                yield name.removeprefix("self.")


def _compared(files: tuple[File, ...]) -> set[str]:
    nodes = (node for file in files for node in file.nodes if isinstance(node, ast.Compare))
    return {last_name(side) for node in nodes for side in (node.left, *node.comparators)}


def _is_written(name: str, files: tuple[File, ...]) -> bool:
    """Whether an attribute of that name of another object is put into a mapping, or set from outside."""
    for node in (node for file in files if file.has(f".{name}") for node in file.nodes):
        values: list[ast.expr] = []
        if isinstance(node, ast.Dict):
            values = node.values
        elif isinstance(node, ast.keyword):
            values = [node.value]
        elif isinstance(node, ast.Assign):
            targets = [target for target in node.targets if isinstance(target, ast.Subscript)]
            values = [node.value] if targets else node.targets
        parts = (part for value in values for part in ast.walk(value) if isinstance(part, ast.Attribute))
        if any(part.attr == name and (dotted(part.value) != "self" or isinstance(node, ast.Dict)) for part in parts):
            return True
    return False


def _left_objects(saver: Saver, files: tuple[File, ...], own: Places) -> Iterator[LeftState]:
    """The objects that a trainer keeps, itself or in others, whose class has a state that nothing asks for."""
    asked = {
        last_name(node.value)
        for file in files
        if file.has(*STATE)
        for node in file.nodes
        if isinstance(node, ast.Attribute) and node.attr in STATE
    }
    kept = {part.attr for one in _keeping(saver) for part in ast.walk(one) if isinstance(part, ast.Attribute)}
    waiting: list[tuple[list[ast.FunctionDef], tuple[str, ...]]] = [(saver.methods, ())]
    seen = set[str]()
    while waiting:
        methods, chain = waiting.pop()
        for name, kind in ((name, kind) for method in methods for name, kind in _made(method)):
            same = own.classes.get(kind, ())
            if len(same) != 1 or kind in seen or {name, *chain} & kept or _is_a_part_of_torch(same[0]):
                continue
            seen.add(kind)
            inside = [part for part in same[0].body if isinstance(part, ast.FunctionDef)]
            names = {part.name for part in inside}
            if not set(STATE) <= names:
                if len(chain) < HOPS and not names & set(STATE):
                    waiting.append((inside, (*chain, name)))
            elif not _changes(inside) or _is_handed_on(name, own):
                continue
            elif name not in asked or _is_kept_by_others(name, saver, own):
                save = next(part for part in inside if part.name == "state_dict")
                file = next(file for file in files if same[0] in file.nodes)
                where = ".".join(("self", *chain, name))
                what = "the checkpoint that a run goes on from" if name in asked else "no checkpoint"
                told = f"{kind}.state_dict() is called for {what}, and `{where}` changes in training: a run "
                yield LeftState(file, save, f"{kind}.state_dict", f"{told}that is resumed begins it anew")


def _keeping(saver: Saver) -> list[ast.FunctionDef]:
    return [saver.saved, *(one for one in saver.methods if KEEPS.search(one.name) and not _is_another(one))]


def _is_another(method: ast.FunctionDef) -> bool:
    """Whether a method writes states into a mapping, and no optimizer's: a checkpoint that no run goes on from."""
    calls = [node for node in ast.walk(method) if isinstance(node, ast.Call)]
    values = [value for node in ast.walk(method) if isinstance(node, ast.Dict) for value in node.values]
    states = any(called_name(value) == "state_dict" for value in values)
    writes = any(re.search(r"save|write|dump", called_name(call)) for call in calls)
    return states and writes and not holds_optimizer(calls) and not loads_optimizer(calls)


def _made(method: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """The attributes in which a method keeps an object that it makes, each with the class."""
    for target, value in assignments_in(ast.walk(method)):
        if dotted(target).startswith("self.") and dotted(target).count(".") == 1 and called_name(value)[:1].isupper():
            yield dotted(target).removeprefix("self."), called_name(value)


def _is_a_part_of_torch(owner: ast.ClassDef) -> bool:
    """Whether a class is a module, a data set or an optimizer: what holds it gives its state as well."""
    return any(
        re.search(r"Module|Dataset|Loader|Sampler|Optimizer|Model|Metric", last_name(base)) for base in owner.bases
    )


def _changes(methods: list[ast.FunctionDef]) -> bool:
    """Whether what a `state_dict` names is assigned by a method that neither begins nor loads it."""
    save = next(method for method in methods if method.name == "state_dict")
    held = {dotted(part) for part in ast.walk(save) if isinstance(part, ast.Attribute)}
    for method in methods:
        if re.search(r"^__init__$|load|reset|restore|clear", method.name):
            continue
        nodes = list(ast.walk(method))
        targets = [target for target, _ in assignments_in(nodes)]
        targets += [node.target for node in nodes if isinstance(node, ast.AugAssign)]
        if held & set(map(dotted, targets)):
            return True
    return False


def _is_kept_by_others(name: str, saver: Saver, own: Places) -> bool:
    """Whether the state of an object is in another mapping alone, without an optimizer's, such as that of the end, and
    neither what makes the checkpoint nor what goes on from one has to do with it."""
    mappings = [(place, node) for place in own.functions for node in place.nodes if isinstance(node, ast.Dict)
                if place.file.has("state_dict")]  # fmt: skip
    mappings = [(place, node) for place, node in mappings if any(_asks(value, name) for value in node.values)]
    asking = {id(part) for _, node in mappings for value in node.values for part in ast.walk(value)}
    others = [node for place in own.functions if place.file.has("state_dict") for node in place.nodes
              if _asks(node, name) and id(node) not in asking]  # fmt: skip
    calls = [part for place, _ in mappings for part in place.nodes if isinstance(part, ast.Call)]
    if not mappings or others or holds_optimizer(calls):
        return False
    going_on = [place for place in own.functions if place.function is saver.saved or loads_optimizer(place.nodes)]
    reached = _reached_from(going_on, saver, own)
    return not any(
        isinstance(node, ast.Attribute) and node.attr == name for place in reached for node in place.nodes
    ) and not any(place in reached for place, _ in mappings)


def _asks(node: ast.AST, name: str) -> bool:
    """Whether an expression is the state of an object of that name."""
    asks = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "state_dict"
    return asks and last_name(node.func.value) == name  # type: ignore[attr-defined]


def _reached_from(places: list[Place], saver: Saver, own: Places) -> set[Place]:
    """Functions, and what they call, the methods of the classes above and below among it; and what saves as they do."""
    family = set(map(id, saver.methods))
    found, waiting = set(places), list(places)
    while waiting:
        place = waiting.pop()
        for call in (node for node in place.nodes if isinstance(node, ast.Call)):
            called = own.called(call, place)
            same = own.named(called_name(call)) if dotted(call.func).startswith(("self.", "super")) else []
            same = [each for each in same if id(each.function) in family]
            for each in (*same, *([called] if called is not None else [])):
                if each not in found:
                    found.add(each)
                    waiting.append(each)
    return found


def _is_handed_on(name: str, own: Places) -> bool:
    """Whether an object of that name is an argument of what may keep it, or stands in a list or a mapping: another may
    keep its state."""
    for place in (place for place in own.all if place.file.has(name)):
        for node in place.nodes:
            given: list[ast.expr] = []
            if isinstance(node, ast.Call):
                called = own.called(node, place)
                kept = [*node.args, *(word.value for word in node.keywords)]
                if called is not None and len(called.given(node)) == len(kept):
                    kept = [value for key, value in called.given(node).items() if _may_keep(key, called)]
                given = kept
            elif isinstance(node, ast.Dict):
                given = node.values
            elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Return | ast.Yield):
                given = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
            if any(isinstance(one, ast.Attribute) and one.attr == name for one in given):
                return True
    return False


def _may_keep(parameter: str, place: Place) -> bool:
    """Whether a function keeps what it is given, asks for its state or hands it on, and does not only call it."""
    used = {id(node.func) for node in place.nodes if isinstance(node, ast.Call)}
    used |= {id(node.value) for node in place.nodes if isinstance(node, ast.Attribute) and node.attr not in STATE}
    return any(
        isinstance(node, ast.Name) and node.id == parameter and id(node) not in used
        for node in ast.walk(place.function)
    )
