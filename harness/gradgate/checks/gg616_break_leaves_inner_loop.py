"""A stop leaves the inner loop alone: the next epoch begins as if nothing had been.

## What it detects

`break` on patience, a limit of steps or a flag to stop, inside the loop over batches of a loop over epochs, with
nothing behind that loop that leaves the outer one.

## Why it matters

The run stops, and starts again with the next epoch: a limit of steps is overrun by one step an epoch, and early
stopping costs the rest of an epoch instead of the rest of the run. The log says that it stopped.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A `break` of a loop within
a loop is a stop where the condition in front of it names patience, stopping, or a limit (`max_steps`, `num_steps`,
`total_steps`, …). It leaves the outer loop too where something in the outer loop's body, behind the inner loop or in
front of it, breaks, returns, raises or asks for one of the names of that condition; where the inner loop has an
`else`; or where the outer loop's own condition names one of them. A `break` at the very top of the inner loop ends
each further epoch before anything is done: it leaves the outer loop as well as any where that is a `for` of so many
epochs, nothing sets a name of the condition but what stands behind it, and an epoch does nothing else: it prepares its
data, sets a mode, clears gradients, and its number is not read afterwards. Statistic: stops that leave one loop of
two; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for epoch in range(epochs):
    for batch in loader:
        step(batch)
        if patience >= limit:
            break
```

Good:

```python
            return                                           # or a flag that the loop over epochs asks for
```

## How to fix

Return from the function, or ask the same condition again behind the inner loop.

## Known limits

A stop that is decided elsewhere (an exception, a callback) is not looked at. What a loop does with given scores is
GG608's, which runs it.

## Sources

Fault OS-22 of the fault catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.accumulation import ENDLESS
from gradgate.checks.source.trainer import File, Function, calls_in, dotted, names_in, nodes_in, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG616", "break-leaves-inner-loop"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
STOPS = re.compile(
    r"patien|stop|(max|num|total|limit|n)_?(\w+_)?(steps?|iters?|iterations|updates|tokens)|steps_limit", re.I
)
IDLE = ("train", "set_epoch", "zero_grad")  # what an epoch that ends at once may do all the same
MATTERS = re.compile(r"eval|valid|save|step|score|metric|test", re.IGNORECASE)  # whoever reads what they give
PURE = (
    *(ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Name, ast.Attribute, ast.Constant),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)
LEAVES = ast.Break | ast.Return | ast.Raise
CLOSED = (
    ast.For,
    ast.While,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Lambda,
)  # what a break in them leaves is theirs


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop within a loop for how it is left."""
    return read_file_by_file(subject, _of_file, "stops")


def _of_file(file: File) -> Iterator[Finding]:
    for function, _ in file.functions:
        for outer in ast.walk(function):
            if isinstance(outer, ast.For | ast.While) and _is_of_epochs(outer):
                yield from (_finding(file, function, found) for found in _stops(function, outer))


def _is_of_epochs(outer: ast.For | ast.While) -> bool:
    head = outer.target if isinstance(outer, ast.For) else outer.test
    return isinstance(outer, ast.While) or "epoch" in ast.unparse(head) or "epoch" in ast.unparse(outer.iter)


def _stops(function: Function, outer: ast.For | ast.While) -> Iterator[ast.If]:
    """The stops of its inner loops that do not leave it."""
    inner = [node for node in outer.body if isinstance(node, ast.For | ast.While)]
    for loop in inner:
        rest = [node for node in outer.body if node is not loop]
        if loop.orelse or any(isinstance(node, LEAVES) for part in rest for node in ast.walk(part)):
            continue
        asked = _texts(outer.test) if isinstance(outer, ast.While) else set()
        for part in rest:
            asked |= {text for node in ast.walk(part) if isinstance(node, ast.If) for text in _texts(node.test)}
        ended = _ended_at_the_top(function, outer, loop, rest)
        for node in nodes_in(loop.body, *CLOSED):
            if isinstance(node, ast.If) and any(isinstance(last, ast.Break) for last in node.body):
                set_there = {text for part in node.body for text in _texts(part)}
                is_ended = ast.unparse(node.test) in ended or _stored(node) & set().union(*ended.values())
                if (
                    STOPS.search(ast.unparse(node.test))
                    and not (_texts(node.test) | set_there) & asked
                    and not is_ended
                ):
                    yield node


def _ended_at_the_top(
    function: Function, outer: ast.For | ast.While, loop: ast.For | ast.While, rest: list[ast.stmt]
) -> dict[str, set[str]]:
    """The conditions, each with its names, on which the inner loop ends before it does anything, and with it all that
    an epoch does."""
    if not isinstance(outer, ast.For) or ENDLESS.search(ast.unparse(outer.iter)):
        return {}
    tests = []
    for guard in loop.body:
        if not isinstance(guard, ast.If) or guard.orelse or not isinstance(guard.body[0], ast.Break):
            break
        tests.append(guard.test)
    heads = [outer.target, *([loop.target] if isinstance(loop, ast.For) else [])]
    changed = {text for part in (*heads, *rest) for text in _stored(part)}
    held = {ast.unparse(test): _texts(test) for test in tests if _is_pure(test) and not _texts(test) & changed}
    numbers = _texts(outer.target)
    behind = (node for node in ast.walk(function) if getattr(node, "lineno", 0) > (outer.end_lineno or 0))
    is_read = any(isinstance(node, ast.Name) and node.id in numbers for node in behind)
    return {} if is_read or not all(_is_idle(function, part, loop, numbers) for part in rest) else held


def _is_pure(test: ast.expr) -> bool:
    return all(isinstance(node, PURE) for node in ast.walk(test))


def _stored(part: ast.AST) -> set[str]:
    places = (node for node in ast.walk(part) if isinstance(node, ast.Name | ast.Attribute))
    return {ast.unparse(node) for node in places if isinstance(node.ctx, ast.Store)}


def _is_idle(function: Function, part: ast.stmt, loop: ast.For | ast.While, numbers: set[str]) -> bool:
    """Whether a statement of an epoch leaves nothing that outlasts it: it prepares what the inner loop alone reads."""
    if isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)):
        return True
    if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
        called = dotted(part.value.func)
        says = called == "print" and _texts(part) <= numbers | {"print"}
        return says or called.rpartition(".")[2] in IDLE
    if not isinstance(part, ast.Assign) or not all(isinstance(target, ast.Name) for target in part.targets):
        return False
    made, inside = _stored(part), set(map(id, ast.walk(loop)))
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id in made]
    reads = [id(node) in inside for node in names if isinstance(node.ctx, ast.Load)]
    called = " ".join(dotted(call.func) for call in calls_in(part.value))
    return all(reads) and not MATTERS.search(called) and (bool(reads) or not called)


def _texts(node: ast.AST) -> set[str]:
    return names_in(node) - {"self"}


def _finding(file: File, function: Function, node: ast.If) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() stops on `{ast.unparse(node.test)}` and leaves the inner loop alone: the next "
        "epoch begins; allowed: none",
        culprit=file.at(node, function.name),
        fix="return, or ask the condition again behind the inner loop",
    )
