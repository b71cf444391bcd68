"""The best state is kept as `state_dict()` gives it: the tensors are the live ones, so the best is the last.

## What it detects

`best = model.state_dict()` while training goes on, bare or in a shallow copy, that is later loaded into the same
module, or written or returned behind the loop; weights that are set aside so, while an average stands in their place.

## Why it matters

`state_dict` returns references. Each update of the parameters changes what was kept: loading it back does nothing, and
the file that is called best holds the last weights, those that early stopping was to throw away. Nothing raises, and
the score in the log is the best one.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Kept is what is assigned to
a name, an attribute or an item in a loop, in a function that one calls, or where scores are compared: a `state_dict()`
or the named parameters; `dict`, `.copy()` or `copy.copy` of one; a mapping, a tuple or a comprehension that passes its
tensors on, with `.data` or `.detach()` too; what an object of the trainer's hands out that writes its own tensors in
place (`average.state_dict()["shadow"]`, `average.shadow`); a name that holds one of these. Findings are those that

* `load_state_dict` of the same module is given, in the same function, or in the same class or file where it is an
  attribute or an item;
* a save is given, or the function returns, behind the loop, where they were kept under a comparison;
* are kept as an attribute that another method saves, which no loop calls or which is not called right behind, or, of
  what is called best, an entry of a mapping or a name of an outer function too, another function;
* the same function, or class where it is an attribute, writes over in place (`copy_`, `load_state_dict` of another
  one), and brings back, other than in `state_dict` and `load_state_dict` methods;
* an object keeps under a comparison, or a method that is called under one, and that are saved or loaded behind the
  loop.

Clean are `copy.deepcopy`, `.clone()`, `.cpu()` (a copy where training runs on another device: not where the source
names none, or its setting's default is the CPU), a module that is made anew within the loop, a mapping that is changed
afterwards or handed to another function, a loop that ends there, and the state of what is named after a class of the
trainer's whose own `state_dict` gives plain numbers. Statistic: such states; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if score < best_score:
    best_score, best_state = score, model.state_dict()
...
model.load_state_dict(best_state)
```

Good:

```python
    best_score, best_state = score, copy.deepcopy(model.state_dict())
```

## How to fix

Copy the tensors (`copy.deepcopy`, or `.clone()` of each), or write the file at once.

## Known limits

States that go through another function's arguments are not followed. A state that is `.cpu()`ed is an alias where
training runs on the processor.

## Sources

PyTorch, "Saving and loading models": `best_model_state = model.state_dict()` "returns a reference to the state and not
its copy".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradgate.checks.source.lent_states import Lent, lent_in
from gradgate.checks.source.live_states import (
    NOTHING,
    SHALLOW,
    STATES,
    aliased,
    are_right_behind,
    called_in_loops,
    classes_of_numbers,
    is_named_after,
    kept_in,
    leading_to,
    names_of_calls,
    parts_of,
    runs_on_cpu,
)
from gradgate.checks.source.places import places_in
from gradgate.checks.source.set_aside import set_aside
from gradgate.checks.source.trainer import (
    File,
    Function,
    called_name,
    calls_in,
    dotted,
    files_of,
    names_in,
    read_file_by_file,
)
from gradgate.checks.source.values import Names, assignments_in, outwards, own_nodes, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG617", "best-state-aliased"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
CHANGES = ("update", "pop", "clear", "setdefault", "popitem")
OF_NUMBERS = re.compile(r"sched|scaler|early|stop|stats|statis|meter|loader|sampler|rng|generator", re.IGNORECASE)
OF_DRAWS = re.compile(r"rng|generator", re.IGNORECASE)
BETTER = re.compile(r"improve|better|best", re.IGNORECASE)
SAVES = re.compile(r"(^|[._])(save|dump|write)", re.IGNORECASE)
TELLS = re.compile(r"log|metric|histor|csv|json|summary|writer|board|console|print|report|record", re.IGNORECASE)
LEAVES = re.compile(r"(^|[._])(load_state_dict|save\w*|dump\w*|write\w*|len|print|deepcopy|copy|dict|OrderedDict)$")
FIX = "copy the tensors (copy.deepcopy, or .clone() of each), or write the file at once"


@dataclass(frozen=True)
class _Kept:
    """A state that is kept.

    Args:
        name: under which.
        modules: whose it is, as they are written.
        value: where it is taken.
        loop: around it, the outermost; None: none in its function.
        compared: whether scores are compared there, or the name says so in a branch.
    """

    name: str
    modules: tuple[str, ...]
    value: ast.expr
    loop: ast.For | ast.While | None
    compared: bool


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each state that is kept while training goes on."""
    files = files_of(subject)
    on_cpu, numbers, loaded = runs_on_cpu(files), classes_of_numbers(files), set(_loaded_back(files))
    lent = lent_in(places_in(files)) if files else NOTHING
    return read_file_by_file(subject, lambda file: _of_file(file, on_cpu, numbers, loaded, lent), "states")


def _loaded_back(files: Sequence[File]) -> Iterator[str]:
    """The attributes of other objects that a module is given back: `model.load_state_dict(tracker.best_weights)`."""
    for call in (call for file in files if file.has("load_state_dict(") for call in calls_in(file.tree)):
        if called_name(call) == "load_state_dict" and call.args and isinstance(call.args[0], ast.Attribute):
            yield call.args[0].attr


def _of_file(file: File, on_cpu: bool, numbers: set[str], loaded: set[str], lent: Lent) -> Iterator[Finding]:
    told: set[int] = set()
    for finding, value in _kept_live(file, on_cpu, numbers, loaded, lent):
        told.add(id(value))
        yield finding
    for each in set_aside(file):
        if id(each.value) not in told and not OF_DRAWS.search(ast.unparse(each.value)):
            yield _told(file, each.function, each.name, each.value, "the model", "is brought back")


def _kept_live(
    file: File, on_cpu: bool, numbers: set[str], loaded: set[str], lent: Lent
) -> Iterator[tuple[Finding, ast.expr]]:
    if not file.has(*(f"{name}()" for name in (*STATES, *lent.methods)), *(f".{name}" for name in lent.attributes)):
        return
    parents = parents_in(file.tree)
    loops = [node for node in file.nodes if isinstance(node, ast.For | ast.While)]
    called = called_in_loops(file, loops)
    for function, owner in file.functions:
        for kept in _kept(function, parents, called, on_cpu, lent):
            if all(is_named_after(module, numbers) for module in kept.modules):
                continue
            scope = function if _is_local(kept.name, function) else (owner or file.tree)
            if _is_changed(scope, kept):
                continue
            used = _used(scope, function, kept)
            if used is None and owner is not None:
                used = _used_at_the_end(owner, function, kept, called, parents)
                used = used or _used_of_another(file, function, kept, parents)
                if used is None and kept.compared and kept.name.removeprefix("self.") in loaded:
                    used = "is loaded back"
            elif used is None:
                used = _used_by_another(file, function, kept, called)
            if used is not None and not _is_made_anew(file, kept, called):
                yield _finding(file, function, kept, used), kept.value


def _is_local(name: str, function: Function) -> bool:
    """Whether a name is the function's own, and not one of a function that it stands in, or an entry of a mapping that
    is made in it."""
    nodes = own_nodes(function)
    if not name.isidentifier():
        made = (dotted(target) for target, value in assignments_in(nodes) if isinstance(value, ast.Dict))
        return name.partition("[")[0] in made and name.partition("[")[0].isidentifier()
    return name not in (part for node in nodes if isinstance(node, ast.Nonlocal | ast.Global) for part in node.names)


def _kept(
    function: Function, parents: dict[int, ast.AST], called: set[str], on_cpu: bool, lent: Lent
) -> Iterator[_Kept]:
    """What a function keeps of the state of modules while training goes on."""
    names = Names(function)
    for target, value in kept_in(own_nodes(function)):
        modules = tuple(name for name in aliased(value, names, on_cpu, lent) if not OF_NUMBERS.search(name))
        if not modules or not isinstance(target, ast.Name | ast.Attribute | ast.Subscript):
            continue
        around = _around(value, function, parents)
        loops = [node for node in around if isinstance(node, ast.For | ast.While)]
        branches = [node for node in around if isinstance(node, ast.If)]
        best = bool(BETTER.search(ast.unparse(target)))
        compared = any(_compares(node.test) for node in branches) or (best and bool(branches))
        compared |= any(_leaves_worse(each) for each in function.body if each.lineno < value.lineno)
        own = isinstance(target, ast.Attribute) and bool(BETTER.search(target.attr))
        gathered = any(
            isinstance(node, ast.With) and "state_dict_type" in ast.unparse(node.items[0]) for node in around
        )
        if not gathered and (loops or compared or own or function.name in called) and not (loops and _ends(around)):
            yield _Kept(ast.unparse(target), modules, value, loops[-1] if loops else None, compared)


def _around(node: ast.AST, function: Function, parents: dict[int, ast.AST]) -> list[ast.AST]:
    """What a node stands in within a function, from the inside out."""
    found: list[ast.AST] = []
    for parent in outwards(node, parents):
        if parent is function:
            break
        found.append(parent)
    return found


def _leaves_worse(statement: ast.stmt) -> bool:
    """Whether a function ends at a statement where a comparison says so: what is behind it is for what is better."""
    return isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Return) and _compares(statement.test)


def _compares(test: ast.expr) -> bool:
    orders = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
    compares = any(isinstance(node, ast.Compare) and isinstance(node.ops[0], orders) for node in ast.walk(test))
    return compares or bool(BETTER.search(ast.unparse(test)))


def _ends(around: list[ast.AST]) -> bool:
    """Whether the loop is left behind a statement."""
    branch = next((node for node in around if isinstance(node, ast.If | ast.For | ast.While)), None)
    return isinstance(branch, ast.If) and any(isinstance(last, ast.Break | ast.Return) for last in branch.body)


def _is_changed(scope: ast.AST, kept: _Kept) -> bool:
    """Whether what is kept is changed, copied, or handed to what may change it, in another statement."""
    for target, value in assignments_in(ast.walk(scope)):
        within = isinstance(target, ast.Subscript) and ast.unparse(target.value) == kept.name
        copied = ast.unparse(target) == kept.name and value is not kept.value and kept.name in names_in(value)
        if within or copied:
            return True
    for call in calls_in(scope):
        called = dotted(call.func)
        lent = any(_is_of(given, kept.name) for given in call.args) and not LEAVES.search(called)
        if lent or called in [f"{kept.name}.{name}" for name in CHANGES]:
            return True
    return False


def _used(scope: ast.AST, function: Function, kept: _Kept) -> str | None:
    """What is done with the state; None: nothing that needs it as it was."""
    for call in calls_in(scope):
        loads = isinstance(call.func, ast.Attribute) and call.func.attr == "load_state_dict" and call.args
        of_it = loads and ast.unparse(call.func.value) in kept.modules  # type: ignore[attr-defined]
        if of_it and _is_of(call.args[0], kept.name):
            return "is loaded back"
    if kept.loop is None or not kept.compared:
        return None
    for node in ast.walk(function):
        if getattr(node, "lineno", 0) <= (kept.loop.end_lineno or 0):
            continue
        if isinstance(node, ast.Return) and node.value is not None and _holds(node.value, kept.name):
            return "is returned"
        given = node.args if isinstance(node, ast.Call) and SAVES.search(dotted(node.func)) else []
        if any(_holds(each, kept.name) for each in given):
            return "is written"
    return None


def _used_at_the_end(
    owner: ast.ClassDef, function: Function, kept: _Kept, called: set[str], parents: dict[int, ast.AST]
) -> str | None:
    """What another method does with a best state that is kept as an attribute: one that no loop calls, or that is not
    called right behind.
    """
    methods = [part for part in owner.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not kept.name.startswith("self."):
        return None
    if not (kept.compared or BETTER.search(kept.name)):
        return _used_behind(methods, function, kept, parents)
    at_once = names_of_calls(function)
    end = kept.loop.end_lineno or 0 if kept.loop is not None and kept.compared else None
    for method in methods:
        names = {kept.name, *_names_of(method, kept.name)}
        for call in calls_in(method) if method is not function else ():
            if SAVES.search(dotted(call.func)) and any(_holds(given, name) for given in call.args for name in names):
                later = method.name not in called | at_once
                leading = leading_to(methods, method)
                inside = [one.lineno for one in calls_in(function) if called_name(one) in leading]
                if end is not None and inside and min(inside) > end and method.name not in called:
                    return "is written"
                if later or not are_right_behind(methods, function, leading):
                    return "is written"
    return None


def _names_of(method: Function, name: str) -> set[str]:
    """The local names by which a method knows what is kept."""
    return {dotted(target) for target, value in assignments_in(own_nodes(method)) if _is_of(value, name)} - {""}


def _used_behind(
    methods: Sequence[Function], function: Function, kept: _Kept, parents: dict[int, ast.AST]
) -> str | None:
    """What a method that calls another under a comparison does behind its loop with what that one keeps."""
    for method in methods:
        calls = [call for call in calls_in(method) if dotted(call.func) == f"self.{function.name}"]
        arounds = [_around(call, method, parents) for call in calls]
        if arounds and all(any(isinstance(n, ast.If) and _compares(n.test) for n in around) for around in arounds):
            ends = [
                node.end_lineno or 0 for around in arounds for node in around if isinstance(node, ast.For | ast.While)
            ]
            behind = [call for call in calls_in(method) if ends and call.lineno > max(ends)]
            if any(SAVES.search(dotted(call.func)) and any(_holds(a, kept.name) for a in call.args) for call in behind):
                return "is written"
    return None


def _used_of_another(file: File, function: Function, kept: _Kept, parents: dict[int, ast.AST]) -> str | None:
    """What is done behind a loop with what an object keeps, of which it calls a method that compares."""
    if not kept.compared or not kept.name.startswith("self."):
        return None
    for other in (each for each, _ in file.functions if each is not function):
        calls = [call for call in calls_in(other) if dotted(call.func).endswith(f".{function.name}")]
        for call in calls:
            loops = [node for node in _around(call, other, parents) if isinstance(node, ast.For | ast.While)]
            there = dotted(call.func).rpartition(".")[0] + kept.name.removeprefix("self")
            for use in calls_in(other) if loops and there.partition(".")[2] else ():
                if use.lineno > (loops[-1].end_lineno or 0) and any(_holds(given, there) for given in use.args):
                    if dotted(use.func).endswith("load_state_dict"):
                        return "is loaded back"
                    if SAVES.search(dotted(use.func)):
                        return "is written"
    return None


def _used_by_another(file: File, function: Function, kept: _Kept, called: set[str]) -> str | None:
    """What another function, that no loop calls, does with a best state that is kept in an object of both."""
    if not BETTER.search(kept.name) or any(map(_saves, calls_in(function))):
        return None
    for other in (each for each, owner in file.functions if owner is None and each.name not in called):
        for call in calls_in(other) if other is not function else ():
            if SAVES.search(dotted(call.func)) and any(_holds(given, kept.name) for given in call.args):
                return "is written"
    return None


def _saves(call: ast.Call) -> bool:
    """Whether a call saves, and not only tells a log."""
    name = dotted(call.func)
    return bool(SAVES.search(name.rpartition(".")[2])) and not TELLS.search(name)


def _is_of(node: ast.expr, name: str) -> bool:
    """Whether an expression is what a name holds, or an item of it."""
    if isinstance(node, ast.Call) and dotted(node.func) in SHALLOW and node.args:
        return _is_of(node.args[0], name)
    return ast.unparse(node) == name or (isinstance(node, ast.Subscript) and _is_of(node.value, name))


def _holds(node: ast.expr, name: str) -> bool:
    """Whether an expression hands on what a name holds, alone or among others."""
    if isinstance(node, ast.Dict | ast.Tuple | ast.List):
        return any(_holds(part, name) for part in parts_of(node))
    return _is_of(node, name) or name.startswith(f"{ast.unparse(node)}[")


def _is_made_anew(file: File, kept: _Kept, called: set[str]) -> bool:
    """Whether one of the modules is another one in the next turn of the loop."""
    within: list[ast.AST] = [kept.loop] if kept.loop is not None else []
    within += [function for function, _ in file.functions if function.name in called]
    given = {
        dotted(part)
        for scope in within
        for node in ast.walk(scope)
        for part in _targets(node)
        if isinstance(part, ast.Name | ast.Attribute) and (scope is kept.loop or isinstance(part, ast.Attribute))
    }
    return any(
        module == name or module.startswith((f"{name}.", f"{name}[")) for module in kept.modules for name in given
    )


def _targets(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Assign):
        yield from (part for target in node.targets for part in getattr(target, "elts", [target]))
    elif isinstance(node, ast.For):
        yield from ast.walk(node.target)


def _finding(file: File, function: Function, kept: _Kept, used: str) -> Finding:
    modules = " and ".join(f"`{module}`" for module in kept.modules)
    return _told(file, function, kept.name, kept.value, modules, used)


def _told(file: File, function: Function, name: str, value: ast.expr, modules: str, used: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() keeps the live tensors of {modules} as `{name}`: what {used} is the last state, "
        "not the one that was kept; allowed: none",
        culprit=file.at(value, function.name),
        fix=FIX,
    )
