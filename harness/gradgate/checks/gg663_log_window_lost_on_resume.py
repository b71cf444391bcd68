"""A sum of what is logged is in no checkpoint: the first line of a resumed run is a mean over fewer steps.

## What it detects

`running += loss` in a loop that logs and sets it back every so many steps, and saves every so many others, where the
checkpoint does not have it.

## Why it matters

The first value behind a resume is a mean over the steps since then, beside values over whole intervals. Two logs that
should be the same differ, a jump is looked for in the resume that is none of the training, and a rule that stops by the
logged loss decides otherwise.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Read are functions that load
an optimizer's state, or call what does, and the methods of a class that does. A finding, as a warning, is a branch in a
loop whose condition asks for a step (`%`, or a function that does), in which a name or an attribute

* that begins at 0 or empty outside of that loop, and is added to or appended to in it, is given to a call;
* and is set back to its beginning;

where the loop saves, itself or by a function of the trainer's, a mapping with an optimizer's state in another branch
that asks for another interval. None are those whose name stands in a mapping, or is assigned from one. Statistic: such
branches; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
running += loss.item()
if step % log_every == 0:
    log(running / log_every)
    running = 0.0
if step % save_every == 0:
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
```

Good:

```python
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "running": running})
```

## How to fix

Save the sum and the count, and restore them; or save where they have just been set back.

## Known limits

Meters that are objects are not followed, and whether one interval is a multiple of the other is not known.

## Sources

A log of a run that was stopped should be that of one that was not: GG602 holds the two against each other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.resuming import Resumes, holds_optimizer, loads_optimizer
from gradgate.checks.source.saved_mappings import entries_of
from gradgate.checks.source.trainer import NONE, called_name, dotted, files_of, given_by, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, contains
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG663", "log-window-lost-on-resume"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
DEPTH = 3  # functions that are followed
Loop = ast.For | ast.While


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what loops log and set back."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    asked = any(file.has("load_state_dict") for file in files)
    findings = tuple(_found(places_in(files), Resumes(files))) if asked else ()
    return Outcome(findings, {"sums": len(findings)}, {"sums": 0})


def _found(own: Places, resumes: Resumes) -> Iterator[Finding]:
    for place in own.functions:
        loops = [node for node in place.nodes if isinstance(node, Loop)]
        if not loops or not place.file.has("% ", "every", "interval"):
            continue
        methods = own.methods_of(place.owner) if place.owner is not None else [place]
        if not resumes.loads(place.file, place.function) and not any(loads_optimizer(each.nodes) for each in methods):
            continue
        kept = {dotted(part) for each in methods for part in _kept(each)}
        for loop in loops:
            for branch, names in _windows(loop, place, methods):
                lost = [name for name in names if name not in kept]
                if lost and _saves_elsewhere(loop, branch, place, own):
                    yield _finding(place, branch, lost)


def _kept(place: Place) -> Iterator[ast.expr]:
    """What stands in a mapping, or is assigned from one."""
    for node in place.nodes:
        if isinstance(node, ast.Dict):
            values = [value for value in node.values if value is not None]
        elif isinstance(node, ast.Call) and dotted(node.func) == "dict":
            values = [word.value for word in node.keywords]
        else:
            continue
        yield from (value for value in values if dotted(value))
    for target, value in assignments_in(place.nodes):
        if isinstance(value, ast.Subscript) or called_name(value) == "get":
            yield target
        if isinstance(target, ast.Subscript):
            yield value


def _windows(loop: Loop, place: Place, methods: list[Place]) -> Iterator[tuple[ast.If, list[str]]]:
    """The branches of a loop that hand on what has been added up in it and begin it anew, with the names of that."""
    inside = list(nodes_in(loop.body, *OTHERS))
    begun = {dotted(to) for to, value in assignments_in(place.nodes) if _is_first(value) and not contains(loop, to)}
    begun |= {
        dotted(to)
        for each in methods
        for to, value in assignments_in(each.nodes)
        if _is_first(value) and dotted(to).startswith("self.")
    }
    raised = {name for node in inside for name in _raised(node)}
    for branch in (node for node in inside if isinstance(node, ast.If) and _asks_step(node.test)):
        nodes = list(nodes_in(branch.body, *OTHERS))
        back = [dotted(to) for to, value in assignments_in(nodes) if _is_first(value)]
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        told = {dotted(part) for call in calls for given in given_by(call) for part in ast.walk(given)}
        names = [name for name in dict.fromkeys(back) if name in begun & raised]
        if told & set(names):
            yield branch, names


def _asks_step(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Mod) for node in ast.walk(test)) or isinstance(test, ast.Call)


def _is_first(value: ast.expr) -> bool:
    """Whether a value is 0, or an empty list."""
    if isinstance(value, ast.List):
        return not value.elts
    return isinstance(value, ast.Constant) and value.value in (0, 0.0) and value.value is not False


def _raised(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        yield dotted(node.target)
    elif isinstance(node, ast.Call) and called_name(node) == "append" and isinstance(node.func, ast.Attribute):
        yield dotted(node.func.value)
    for target, value in assignments_in([node]):
        sides = (value.left, value.right) if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add) else ()
        if dotted(target) in map(dotted, sides):
            yield dotted(target)


def _saves_elsewhere(loop: Loop, window: ast.If, place: Place, own: Places) -> bool:
    """Whether a loop saves in another branch, which asks for another interval."""
    branches = [node for node in nodes_in(loop.body, *OTHERS) if isinstance(node, ast.If) and _asks_step(node.test)]
    return any(
        branch is not window
        and not contains(window, branch)
        and ast.unparse(branch.test) != ast.unparse(window.test)
        and _saves(nodes_in(branch.body, *OTHERS), place, own, DEPTH)
        for branch in branches
    )


def _saves(nodes: Iterator[ast.AST] | list[ast.AST], place: Place, own: Places, depth: int) -> bool:
    """Whether a mapping with an optimizer's state is made, there or by what is called."""
    for node in nodes:
        if isinstance(node, ast.Dict) and holds_optimizer(entries_of(node).values()):
            return True
        if isinstance(node, ast.Call):
            if dotted(node.func) == "dict" and holds_optimizer(word.value for word in node.keywords):
                return True
            called = own.called(node, place) if depth else None
            if called is not None and called is not place and _saves(called.nodes, called, own, depth - 1):
                return True
    return False


def _finding(place: Place, branch: ast.If, names: list[str]) -> Finding:
    told = ", ".join(f"`{name}`" for name in names)
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.name}() logs {told} where `{ast.unparse(branch.test)}`, and no checkpoint holds it: the first "
            "line of a resumed run is of fewer steps; allowed: none"
        ),
        culprit=place.file.at(branch, place.name),
        fix="save what has been added up, and restore it",
        severity="warning",
    )
