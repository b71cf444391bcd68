"""What is logged for an update of several micro-batches is the last one's alone.

## What it detects

`for micro in window: loss = ...; (loss / len(window)).backward()` and `log(loss=loss.item())` behind that loop.

## Why it matters

The line of the log is one micro-batch of many: its noise is as many times as large, and where it has been divided it is
smaller by as much. Runs with another number of micro-batches cannot be compared, and what watches the training loss, a
guard against spikes, a rate that falls on a plateau, sees an eighth of the rows. Training itself is the same: a
warning.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are loops each
turn of which goes backward, itself or by a function of the trainer's, and in which no optimizer steps, where one steps
behind the loop in the same function, or in the loop around it; and loops that step once in several turns. Findings are
names that such a loop assigns, of which what goes backward is made, or which are assigned in one line with it, or by
the call that goes backward, and which are read behind the loop, or where it steps, before they are assigned anew.

Names that the loop adds up, or makes of their own former value, are clean, and so are those that conditions alone ask
for. Statistic: such names; a warning each.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for micro in window:
    loss = objective(model, micro)
    (loss / len(window)).backward()
optimizer.step()
log(loss=loss.item())
```

Good:

```python
for micro in window:
    loss = objective(model, micro)
    (loss / len(window)).backward()
    total += loss.detach()
optimizer.step()
log(loss=total.item() / len(window))
```

## How to fix

Add up what is logged over the micro-batches of the update.

## Known limits

What an attribute keeps of the last micro-batch is not seen, nor numbers that are made of such a name in the loop and
have no part in the loss. What a step says of its own batch is GG416's, which runs it.

## Sources

Hugging Face Trainer, whose `tr_loss` is the sum over all micro-batches since the last line of the log.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from gradgate.checks.source.accumulation import Body, Methods, is_backward, methods_of, steps_in, turns_in
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.trainer import NONE, File, dotted, files_of, names_in, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, contains, outwards, parents_in, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG653", "last-micro-batch-logged"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
Loop = ast.For | ast.While


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what stands behind each loop over micro-batches."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    own = places_in(files)
    methods: dict[File, Methods] = {}
    found: list[Finding] = []
    for place in own.functions:
        if any(isinstance(node, Loop) for node in place.nodes):
            known = methods.setdefault(place.file, methods_of(place.file, own))
            found += _of_place(place, known)
    return Outcome(tuple(found), {"names": len(found)}, {"names": 0})


def _of_place(place: Place, methods: Methods) -> Iterator[Finding]:
    seen = set[str]()
    for loop in (node for node in place.nodes if isinstance(node, Loop)):
        turn = list(nodes_in(loop.body, *OTHERS))
        if any(steps_in(turn, methods)):
            continue
        behind = _behind(loop, place)
        if any(steps_in(behind, methods)):
            for name, read in _reads(loop, turn, behind, methods, seen):
                yield _finding(place, read, name, f"behind its loop over micro-batches in line {loop.lineno}")
    for body, _, _, stepping, when in turns_in(place.function, place.nodes, place.names, methods):
        taken = _in_order(nodes_in(stepping, *OTHERS))
        left_out = set(map(id, taken))
        turn = [node for node in nodes_in(body.body, *OTHERS) if id(node) not in left_out]
        for name, read in _reads(body, turn, taken, methods, seen):
            yield _finding(place, read, name, f"where `{when}`")


def _reads(
    body: Body, turn: list[ast.AST], later: list[ast.AST], methods: Methods, seen: set[str]
) -> Iterator[tuple[str, ast.expr]]:
    """The names of a turn's last loss that are read later, each with where, and none of those that have been seen."""
    going = [node for node in nodes_in(body.body, *OTHERS, ast.If, ast.For, ast.While) if _goes_back(node, methods)]
    for name in sorted(_of_the_last(body, turn, going) - seen) if going else ():
        if (read := _read(name, later)) is not None:
            seen.add(name)
            yield name, read


def _goes_back(node: ast.AST, methods: Methods) -> bool:
    return is_backward(node) or id(node) in methods.going_back


def _behind(loop: Loop, place: Place) -> list[ast.AST]:
    """What runs behind a loop, in the order of its lines: in its function, or up to the end of the loop around it."""
    parents = parents_in(place.function)
    around = next((node for node in outwards(loop, parents) if isinstance(node, ast.For | ast.While)), place.function)
    end = loop.end_lineno or loop.lineno
    return _in_order(node for node in nodes_in(around.body, *OTHERS) if getattr(node, "lineno", 0) > end)


def _in_order(nodes: Iterable[ast.AST]) -> list[ast.AST]:
    """The nodes that stand at a line, in the order of these."""
    placed = [node for node in nodes if isinstance(node, ast.stmt | ast.expr)]
    return [*sorted(placed, key=lambda node: (node.lineno, node.col_offset))]


def _of_the_last(body: Body, turn: Sequence[ast.AST], going: Iterable[ast.AST]) -> set[str]:
    """The names that hold what a turn went backward by, or what was made with that, and nothing of the turns before."""
    given: dict[str, list[ast.expr]] = {}
    together: dict[str, set[str]] = {}
    for target, value in assignments_in(turn):
        names = [part.id for part in places_of(target) if isinstance(part, ast.Name)]
        for name in names:
            given.setdefault(name, []).append(value)
            together.setdefault(name, set()).update(names)
    kept = {name for name, values in given.items() if any(name in names_in(value) for value in values)}
    kept |= {dotted(node.target) for node in turn if isinstance(node, ast.AugAssign)}
    found: set[str] = set()
    for node in going:
        found |= names_in(node)
        for target, value in assignments_in(turn):
            found |= set(map(dotted, places_of(target))) if contains(value, node) else set()
    found &= given.keys()
    for _ in range(3):  # what that is made of, where it is a number by itself: `loss = terms["loss"] / n`
        for name in list(found):
            found |= together.get(name, set())
            found |= {part for value in given.get(name, ()) for part in _scaled(value)} & given.keys()
    return found - kept - (set(map(dotted, places_of(body.target))) if isinstance(body, ast.For) else set())


def _scaled(value: ast.expr) -> set[str]:
    """The name of which an expression is an item, a sum, or so many times as much."""
    while True:
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div | ast.Mult):
            value = value.left
        elif isinstance(value, ast.Subscript | ast.Attribute):
            value = value.value
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and not value.args:
            value = value.func.value
        else:
            break
    return {value.id} if isinstance(value, ast.Name) else set()


def _read(name: str, behind: Iterable[ast.AST]) -> ast.expr | None:
    """Where a name is read first, before it is assigned, and not by a condition alone."""
    asked = {id(part) for node in behind if isinstance(node, ast.If | ast.Assert) for part in ast.walk(node.test)}
    for node in behind:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            reads = any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node.value))
            if not reads and any(dotted(target) == name for target, _ in assignments_in([node])):
                return None
        if isinstance(node, ast.Delete) and name in map(dotted, node.targets):
            return None
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) and id(node) not in asked:
            return node
    return None


def _finding(place: Place, node: ast.expr, name: str, where: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() reads `{name}` {where}: it is the last micro-batch's; "
        "allowed: what all of an update come to",
        severity="warning",
        culprit=place.file.at(node, place.name),
        fix="add it up over the micro-batches of the update",
    )
