"""An update is skipped for gradients that are not finite, and these stay: each later one is not finite either.

## What it detects

`if not finite: return` (or `continue`) behind `backward()` and in front of the only `zero_grad()`, and
`if finite: optimizer.step(); optimizer.zero_grad()` where nothing else clears.

## Why it matters

Gradients are added up. One that is infinite stays infinite whatever is added, so that after one bad batch no update is
ever made again: the run goes on, logs its losses, and stands still. With a loss scale that is halved at each skip the
scale falls to its floor as well.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Read is each function and
each loop that runs a backward, itself or in a loop within it, and clears gradients (`zero_grad`, or `.grad` is set) in
a statement behind that. A finding is a branch between these two,

* which ends the function's or the loop's turn and clears nothing, or which holds the clearing and has no other branch
  that does;
* and whose condition asks whether a number is finite: by `isfinite`, `isnan`, `isinf` or an infinite number that is
  written down, in the condition, in what its names are assigned, or in the function of the trainer's that gives them.

None are those where something clears in front of the backward, or around the call of that function, or where the branch
raises. Statistic: such branches; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
loss.backward()
if not torch.isfinite(norm):
    return
optimizer.step()
optimizer.zero_grad()
```

Good:

```python
loss.backward()
if torch.isfinite(norm):
    optimizer.step()
optimizer.zero_grad()
```

## How to fix

Clear the gradients in the branch as well, or in front of the backward.

## Known limits

What a library's function clears is not known. That a step with a loss that is not finite changes nothing is GG303's,
which runs it.

## Sources

PyTorch, "Automatic mixed precision": `scaler.step` skips the optimizer's step, and the loop clears the gradients all
the same.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.objects_called import method_called
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name, dotted, last_attr, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, contains
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG662", "skipped-update-keeps-gradients"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
FINITE = ("isfinite", "isnan", "isinf", "_amp_non_finite_check_and_unscale_", "isinfinite")
INFINITE = re.compile(r"^(float\(['\"]-?(inf|nan)['\"]\)|(math|np|torch)\.(inf|nan))$")
DEPTH = 2  # functions that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what is skipped between a backward and what clears its gradients."""
    return read_place_by_place(subject, _may_skip, _of_place, "branches")


def _may_skip(file: File) -> bool:
    return file.has("backward(") and file.has("zero_grad", ".grad = None", ".grad=None")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    turns: list[tuple[list[ast.stmt], bool]] = [(place.function.body, True)]
    turns += [(node.body, False) for node in place.nodes if isinstance(node, ast.For | ast.While)]
    for body, whole in turns:
        for branch in _skipping(body, place, own, whole=whole):
            if not (whole and _is_cleared_around(place, own)):
                yield _finding(place, branch)
                return


def _skipping(body: list[ast.stmt], place: Place, own: Places, *, whole: bool) -> Iterator[ast.If]:
    statements = list(_flat(body))
    runs = [at for at, each in enumerate(statements) if _goes_backward(each, place, own)]
    clears = [at for at, each in enumerate(statements) if _clears([each], place, own)]
    if not runs or not clears or min(clears) <= min(runs):
        return
    ends = (ast.Return,) if whole else (ast.Return, ast.Continue)
    behind = max(at for at in runs if at < max(clears))
    for at, branch in enumerate(statements[behind + 1 :], behind + 1):
        if not isinstance(branch, ast.If) or not _asks_finite(branch.test, place, own, DEPTH):
            continue
        later = [each for each in clears if each > at]
        skips = isinstance(branch.body[-1], ends) and later and not _clears(branch.body, place, own)
        holds = clears == [at] and not (_clears(branch.body, place, own) and _clears(branch.orelse, place, own))
        if skips or holds:
            yield branch


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.With | ast.AsyncWith | ast.Try):
            yield from _flat(statement.body)
        elif not isinstance(statement, OTHERS):
            yield statement


def _goes_backward(statement: ast.stmt, place: Place, own: Places) -> bool:
    calls = [node for node in nodes_in([statement], *OTHERS) if isinstance(node, ast.Call)]
    if any(called_name(call) == "backward" or last_attr(call) == "backward" for call in calls):
        return True
    called = (own.called(call, place) for call in calls)
    return any(
        isinstance(node, ast.Call) and last_attr(node) == "backward"
        for each in called
        if each is not None and each is not place
        for node in each.nodes
    )


def _clears(block: Iterable[ast.AST], place: Place, own: Places, depth: int = DEPTH) -> bool:
    """Whether statements clear gradients, or a function of the trainer's that they call."""
    nodes = list(nodes_in(block, *OTHERS))
    if any("zero_grad" in last_attr(node) for node in nodes if isinstance(node, ast.Call)):
        return True
    if any(isinstance(target, ast.Attribute) and target.attr == "grad" for target, _ in assignments_in(nodes)):
        return True
    zeroed = (node for node in nodes if isinstance(node, ast.Call) and last_attr(node) == "zero_")
    if any(".grad" in ast.unparse(node.func) for node in zeroed):
        return True
    called = [_called(node, place, own) for node in nodes if isinstance(node, ast.Call)] if depth else []
    return any(each is not None and each is not place and _clears(each.nodes, each, own, depth - 1) for each in called)


def _called(call: ast.Call, place: Place, own: Places) -> Place | None:
    return own.called(call, place) or method_called(call, place, own)


def _asks_finite(node: ast.AST, place: Place, own: Places, depth: int) -> bool:
    """Whether an expression asks whether a number is finite, itself or in what gives its names."""
    for part in place.names.parts(node):
        if isinstance(part, ast.Call):
            if last_attr(part) in FINITE or INFINITE.match(ast.unparse(part)):
                return True
            called = _called(part, place, own) if depth else None
            values = called.returned if called is not None and called is not place and not _steps(called) else []
            if called is not None and any(_asks_finite(value, called, own, depth - 1) for value in values):
                return True
        elif isinstance(part, ast.Attribute) and INFINITE.match(ast.unparse(part)):
            return True
    return False


def _steps(place: Place) -> bool:
    return any(isinstance(node, ast.Call) and dotted(node.func).endswith("optimizer.step") for node in place.nodes)


def _is_cleared_around(place: Place, own: Places, depth: int = DEPTH) -> bool:
    """Whether what calls a function clears gradients beside that."""
    for caller, call in own.calls_of(place.name):
        if caller is place or own.called(call, caller) not in (place, None):
            continue
        beside = [node for node in caller.nodes if isinstance(node, ast.Call) and not contains(node, call)]
        if any("zero_grad" in last_attr(node) for node in beside):
            return True
        if depth and _is_cleared_around(caller, own, depth - 1):
            return True
    return False


def _finding(place: Place, branch: ast.If) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.name}() skips the update where `{ast.unparse(branch.test)}` says so, and keeps its gradients: "
            "what is not finite stays so in each later update; allowed: none"
        ),
        culprit=place.file.at(branch, place.name),
        fix="clear the gradients in that branch too, or in front of the backward",
    )
