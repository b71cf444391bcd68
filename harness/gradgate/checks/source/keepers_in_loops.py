"""What keeps the best score, and is a local variable of a loop or one of a trainer's callbacks, and is in no
checkpoint."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.best_scores import SAVES, is_first, mapping_in
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.resuming import Resumes
from gradgate.checks.source.score_judges import BRINGS, Judge, Judges, judges_in
from gradgate.checks.source.score_keepers import Held, Saver, savers_in
from gradgate.checks.source.trainer import File, called_name, calls_in, dotted, given_by
from gradgate.checks.source.values import assignments_in, last_name, outwards, parents_in

STATES = re.compile(r"state|load|restor|resum|snapshot|^(on_)?(save|load)_checkpoint$", re.IGNORECASE)
ADDS = re.compile(r"add|append|insert|register|attach|extend|use|on$", re.IGNORECASE)
TELLS = re.compile(r"(^|[._])(print|log\w*|debug|info|warning|len|str|repr|bool|write_row|append)$")
LOADED = re.compile(r"load|resum|restor|state|payload|checkpoint|ckpt|start", re.IGNORECASE)


def local_scores(files: tuple[File, ...]) -> Iterator[Held]:
    """Local variables that are begun anew in a function which goes on from a checkpoint, and told scores in a loop."""
    judges = judges_in(files)
    if not judges.classes and not judges.functions:
        return
    resumes, places = Resumes(files), places_in(files)
    for place in places.functions:
        if not place.file.has(*judges.classes, *judges.functions):
            continue
        for name, kind in _told_in_loops(place, judges):
            values = [value for target, value in assignments_in(place.nodes) if dotted(target) == name]
            fresh = values and all(_is_fresh(value, place, judges, places) for value in values)
            if not fresh or not _goes_on(place, resumes, places):
                continue
            saved = _saved(place, places)
            if saved is not None and not _is_saved(place, name, judges):
                yield Held(saved.file, name, f"{kind}, of {place.name}()", saved.function)


def _told_in_loops(place: Place, judges: Judges) -> Iterator[tuple[str, str]]:
    """The names of a function that are told scores in a loop, each with its class or what keeps the score in it."""
    made = {dotted(target): called_name(value) for target, value in assignments_in(place.nodes)}
    found: dict[str, str] = {}
    for loop in (node for node in place.nodes if isinstance(node, ast.For | ast.While)):
        for call in calls_in(loop):
            keeper, called = judges.functions.get(called_name(call)), dotted(call.func)
            if keeper is not None:
                given = keeper.given(call)
                if isinstance(given, ast.Name):
                    found[given.id] = f"of {called_name(call)}()"
            judge = judges.classes.get(made.get(called.partition(".")[0], ""))
            method = called.rpartition(".")[2] if "." in called else "__call__"
            if judge is not None and method in judge.told:
                found[called.partition(".")[0]] = judge.owner.name
    parameters = set(place.parameters)
    yield from ((name, kind) for name, kind in found.items() if name not in parameters)


def _is_fresh(value: ast.expr, place: Place, judges: Judges, places: Places) -> bool:
    """Whether a value is made of nothing that was loaded."""
    if isinstance(value, ast.Dict):
        return all(is_first(each) for each in value.values)
    if not isinstance(value, ast.Call):
        return False
    if any(isinstance(each, ast.Call | ast.Subscript) and LOADED.search(ast.unparse(each)) for each in given_by(value)):
        return False
    if called_name(value) in judges.classes:
        return True
    if called_name(value) in ("dict", "SimpleNamespace"):
        return all(is_first(each) for each in given_by(value))
    if called_name(value) in places.classes:
        return all(is_first(each) for each in given_by(value))
    called = places.called(value, place)
    returned = [node.value for node in called.nodes if isinstance(node, ast.Return)] if called is not None else []
    return bool(returned) and all(
        isinstance(each, ast.Dict | ast.Call) and called is not None and _is_fresh(each, called, judges, places)
        for each in returned
    )


def _goes_on(place: Place, resumes: Resumes, places: Places) -> bool:
    """Whether a function loads an optimizer's state, or one that calls it does."""
    if resumes.loads(place.file, place.function):
        return True
    callers = (caller for caller, call in places.calls_of(place.name) if call is not None)
    return any(resumes.loads(caller.file, caller.function) for caller in callers)


def _saved(place: Place, places: Places) -> Place | None:
    """The function, of one and those that it calls, that makes a checkpoint with an optimizer's state."""
    called = (places.called(call, place) for call in calls_in(place.function))
    for one in (place, *called):
        if one is not None and mapping_in(ast.walk(one.function)) is not None:
            return one
    return None


def _is_saved(place: Place, name: str, judges: Judges) -> bool:
    """Whether a function may save what it keeps, or be given it back: it hands it to anything but what is told the
    score or tells of it, its state is asked for, an entry is assigned, or given to what saves."""
    parents = parents_in(place.function)
    for node in ast.walk(place.function):
        if not (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)):
            continue
        part, inner = parents[id(node)], node
        if isinstance(part, ast.Attribute | ast.Subscript) and part.value is node:
            text = last_name(part)
            is_stored = isinstance(part.ctx, ast.Store)
            if is_stored or (isinstance(part, ast.Attribute) and STATES.search(text)):
                return True
            above = [each for each in outwards(part, parents) if isinstance(each, ast.Call)]
            if any(SAVES.search(dotted(call.func)) and part is not call.func for call in above):
                return True
            continue
        if isinstance(part, ast.keyword):
            part = parents[id(part)]
        if isinstance(part, ast.Call):
            keeper = judges.functions.get(called_name(part))
            is_told = (keeper is not None and keeper.given(part) is inner) or part.func is inner
            if is_told or TELLS.search(dotted(part.func)):
                continue
            return True
        if not isinstance(part, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.If | ast.IfExp | ast.FormattedValue):
            return True
    return False


def callback_scores(files: tuple[File, ...]) -> Iterator[Held]:
    """The callbacks with a best score of trainers that leave out what their callbacks hold."""
    judges = judges_in(files)
    classes = {name: judge for name, judge in judges.classes.items() if any(file.has(name) for file in files)}
    if not classes:
        return
    added = {name for file in files if file.has(*classes) for name in _added(file, classes)}
    known = places_in(files).classes
    added = {name for name in added if not _keeps_state(classes[name], known, files)}
    told: set[int] = set()
    for saver in savers_in(files) if added else ():
        for name, methods in _looped_over(saver).items():
            kinds = sorted(kind for kind in added if not methods or classes[kind].told & methods)
            if kinds and id(saver.saved) not in told and not _names(saver, name, files):
                told.add(id(saver.saved))
                yield Held(saver.file, name, ", ".join(kinds), saver.saved)


def _added(file: File, classes: dict[str, Judge]) -> Iterator[str]:
    """The classes of which an object is put in a row, or handed to what adds it to one."""
    made: dict[str, str] = {}
    for target, value in assignments_in(file.nodes):
        if called_name(value) in classes:
            made[dotted(target)] = called_name(value)
    for node in file.nodes:
        given: list[ast.expr] = []
        if isinstance(node, ast.List | ast.Tuple) and isinstance(node.ctx, ast.Load):
            given = node.elts
        elif isinstance(node, ast.Dict):
            given = node.values
        elif isinstance(node, ast.Call) and ADDS.search(called_name(node)):
            given = node.args
        for each in given:
            kind = called_name(each) or made.get(dotted(each), "")
            if kind in classes:
                yield kind


def _keeps_state(judge: Judge, known: dict[str, list[ast.ClassDef]], files: tuple[File, ...]) -> bool:
    """Whether a class, or one above it, has methods for its state, or its score is assigned from elsewhere."""
    owners, waiting = list[ast.ClassDef](), [judge.owner]
    while waiting:
        owner = waiting.pop()
        owners.append(owner)
        waiting += [
            one for base in owner.bases for one in known.get(last_name(base), ()) if one not in (*owners, *waiting)
        ]
    methods = [part.name for owner in owners for part in owner.body if isinstance(part, ast.FunctionDef)]
    if any(STATES.search(name) for name in methods):
        return True
    for file in files:
        for target, value in assignments_in(file.nodes):
            of_other = isinstance(target, ast.Attribute) and dotted(target.value) != "self"
            if of_other and last_name(target) in judge.kept and not is_first(value):
                return True
    return False


def _looped_over(saver: Saver) -> dict[str, set[str]]:
    """The attributes of a trainer that it goes through, each with the methods that it calls of what is in it; none:
    these are looked up by a name that is not written down."""
    found: dict[str, set[str]] = {}
    for method in saver.methods:
        for node in ast.walk(method):
            if not isinstance(node, ast.For | ast.comprehension) or not isinstance(node.target, ast.Name):
                continue
            over = node.iter.func.value if called_name(node.iter) == "values" else node.iter  # type: ignore[attr-defined]
            name, one = dotted(over), node.target.id
            if not name.startswith("self.") or not isinstance(node, ast.For):
                continue
            called = {dotted(call.func) for call in calls_in(node)}
            if any(
                call.args and dotted(call.args[0]) == one for call in calls_in(node) if called_name(call) == "getattr"
            ):
                found[name] = set()
            elif methods := {each.rpartition(".")[2] for each in called if each.startswith(f"{one}.")}:
                found[name] = found.get(name, methods) and found.get(name, set()) | methods
    return found


def _names(saver: Saver, name: str, files: tuple[File, ...]) -> bool:
    """Whether what makes or loads a checkpoint names an attribute, in whatever class or file."""
    last = name.rpartition(".")[2]
    functions = [function for file in files if file.has(last) for function, _ in file.functions]
    named = [
        one for one in functions if BRINGS.search(one.name) or STATES.search(one.name) or mapping_in(ast.walk(one))
    ]
    for function in (*saver.keeping, *named):
        if any(isinstance(node, ast.Attribute | ast.Name) and last_name(node) == last for node in ast.walk(function)):
            return True
    return False
