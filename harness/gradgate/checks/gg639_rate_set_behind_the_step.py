"""A loop sets the learning rate by hand behind the optimizer's step, and nothing sets it in front of the first.

## What it detects

`group["lr"] = base * factor(step)` behind `optimizer.step()`, where nothing sets the rate before the loop begins.

## Why it matters

The first update is made at the rate that the optimizer was built with, which is the highest one where there is a
warm-up: the step that is to be the smallest is the largest, on moments that have seen nothing. Each other update has
the rate of the one before. A schedule of torch is stepped behind the optimizer as well, but sets the first rate when it
is built.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A rate is set in a loop over
`param_groups` that assigns `["lr"]` something that is computed, not from the rate that it has nor taken back out of a
list; or in a call of a function of the trainer's that always does. A finding is such a place

* behind a statement of the same block that steps an optimizer, itself or by a method of the file that always does;
* where no other place sets the rate: of the same function or its class, its `__init__` with it; in the same file, by a
  loop of its own.

Optimizers that are built with a rate of 0, and classes with a base, which may set the first rate, are clean. Statistic:
such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
optimizer.step()
optimizer.zero_grad()
for group in optimizer.param_groups:
    group["lr"] = group["initial_lr"] * factor(step)
step += 1
```

Good:

```python
for group in optimizer.param_groups:
    group["lr"] = group["initial_lr"] * factor(step)         # of this update
optimizer.step()
optimizer.zero_grad()
step += 1
```

## How to fix

Set the rate in front of the step, by the number of updates made so far; or once before the loop as well.

## Known limits

Rates that are set under a condition, and those that a resumed run alone sets in front, are not seen. Which rate each
update really has is GG607's, which runs it.

## Sources

The `_initial_step` of torch's `LRScheduler`, which sets the rate of the first update when it is built.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.source.accumulation import Methods, methods_of, steps_in
from gradgate.checks.source.trainer import NONE, File, Function, calls_in, dotted, files_of, nodes_in
from gradgate.checks.source.values import OTHERS, Names, blocks_in, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG639", "rate-set-behind-the-step"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PACE = re.compile(r"sched|(^|[._])lr|rate|warm|pace|anneal|decay|cosine", re.IGNORECASE)


@dataclass(frozen=True)
class Setter:
    """A function that sets the rate of each group.

    Args:
        name: of the function.
        owner: its class, if it is a method.
    """

    name: str
    owner: ast.ClassDef | None


@dataclass(frozen=True)
class Place:
    """Where a rate is set.

    Args:
        file: in which.
        function: in which.
        owner: the function's class, if it is a method.
        node: the loop over groups, or the call of a function that has it.
        setter: that function.
    """

    file: File
    function: Function
    owner: ast.ClassDef | None
    node: ast.For | ast.Call
    setter: Setter | None


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each place that sets a rate."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(_of_all(files)) if any(file.has("param_groups") for file in files) else ()
    return Outcome(findings, {"rates": len(findings)}, {"rates": 0})


def _of_all(files: Iterable[File]) -> Iterator[Finding]:
    setters = [
        Setter(function.name, owner)
        for file in files
        if file.has("param_groups")
        for function, owner in file.functions
        if not (owner and owner.bases) and any(_loops(function)) and not any(steps_in(own_nodes(function)))
    ]
    places = [place for file in files for place in _places(file, setters)]
    behind = {id(place.node): place for file in files for place in _behind(file, places)}
    for place in behind.values():
        others = (other for other in places if id(other.node) not in behind)
        if not any(_may_come_first(other, place) for other in others) and not _begins_at_zero(place.file):
            yield _finding(place)


def _loops(function: Function) -> Iterator[ast.For]:
    """The loops over an optimizer's groups that set a computed rate."""
    names = Names(function)
    for loop in (node for node in own_nodes(function) if isinstance(node, ast.For)):
        if "param_groups" not in ast.unparse(loop.iter):
            continue
        for node in nodes_in(loop.body, *OTHERS):
            if not isinstance(node, ast.Assign) or not any(map(_is_rate, node.targets)):
                continue
            held = names.held(node.value)
            own = {ast.unparse(target) for target in node.targets}
            computed = any(isinstance(part, ast.Call | ast.BinOp | ast.IfExp) for part in ast.walk(held))
            computed = computed and not ast.unparse(held).partition("(")[0].endswith(
                ".pop"
            )  # what was there before, put back
            if computed and not own & {ast.unparse(part) for part in ast.walk(held) if isinstance(part, ast.Subscript)}:
                yield loop
                break


def _is_rate(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value == "lr"


def _places(file: File, setters: list[Setter]) -> Iterator[Place]:
    """Where a file sets a rate: by a loop of its own, or by a call. What a setter has is told by its calls."""
    if not (file.has("param_groups") or any(file.has(f"{setter.name}(") for setter in setters)):
        return
    for function, owner in file.functions:
        if any(setter.name == function.name and setter.owner is owner for setter in setters):
            continue
        for loop in _loops(function) if file.has("param_groups") else ():
            yield Place(file, function, owner, loop, None)
        for call in calls_in(function):
            for setter in setters:
                if _goes_to(call, setter, owner):
                    yield Place(file, function, owner, call, setter)
                    break


def _goes_to(call: ast.Call, setter: Setter, owner: ast.ClassDef | None) -> bool:
    holder, _, name = dotted(call.func).rpartition(".")
    if name != setter.name:
        return False
    if setter.owner is None or holder == "self":
        return setter.owner is None or setter.owner is owner
    return bool(PACE.search(holder.rpartition(".")[2])) or PACE.search(name) is not None


def _behind(file: File, places: list[Place]) -> Iterator[Place]:
    """The places of a file that stand behind a step, in the same block."""
    own = [place for place in places if place.file is file]
    methods = methods_of(file) if own else Methods()
    for function in {id(place.function): place.function for place in own}.values():
        of_function = [place for place in own if place.function is function]
        nodes = own_nodes(function)
        for block in (function.body, *blocks_in(node for node in nodes if not isinstance(node, OTHERS))):
            stepped = False
            for statement in block:
                made = _call_of(statement)
                for place in of_function:
                    if stepped and (place.node is statement or place.node is made):
                        yield place
                stepped = stepped or (made is not None and any(steps_in([made], methods)))


def _call_of(statement: ast.stmt) -> ast.Call | None:
    """The call that a statement is, or whose result it keeps."""
    value = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    return value if isinstance(value, ast.Call) else None


def _may_come_first(other: Place, place: Place) -> bool:
    """Whether another place may set the rate of the first update."""
    if other.setter is None or place.setter is None:
        return other.file is place.file
    same_class = other.setter.owner is not None and other.setter.owner is place.setter.owner
    return other.setter.name == place.setter.name or same_class


def _begins_at_zero(file: File) -> bool:
    """Whether an optimizer of a file is built with a rate of 0."""
    return any(
        keyword.arg == "lr" and isinstance(keyword.value, ast.Constant) and keyword.value.value == 0
        for node in file.nodes
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    )


def _finding(place: Place) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.function.name}() sets the learning rate behind the optimizer's step, and nothing sets it in front "
            "of the first: each update has the rate of the one before; allowed: its own"
        ),
        culprit=place.file.at(place.node, place.function.name),
        fix="set the rate in front of the step, by the number of updates made so far",
    )
