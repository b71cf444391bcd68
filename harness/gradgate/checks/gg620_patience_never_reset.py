"""A count of evaluations without improvement is not put back when one improves.

## What it detects

`stale += 1` where a score is no better, a stop at `stale >= patience`, and a new best that leaves `stale` as it is.

## Why it matters

Early stopping then counts all evaluations that were ever worse than the best before them: a run whose score is noisy,
and still falls, is stopped.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports). Where a function keeps a best
score and counts up a name that speaks of waiting (`+= 1`, `bad = bad + 1`), or down one that speaks of what is left,
that name must also be set in the same function; for a local name, in the same loop. Statistic: counts that are not.
Allowed: 0. GG608 drives the loop itself, where the stage has one.

False-alarm rate: 0 where the count is of evaluations in a row.

## Example

Bad:

```python
if score < self.best:
    self.best = score
else:
    self.stale += 1
```

Good:

```python
if score < self.best:
    self.best, self.stale = score, 0
else:
    self.stale += 1
```

## How to fix

Set the count to 0 where there is a new best.

## Known limits

Counts are known by their names, and so is the best.

## Sources

A convergence fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.trainer import File, Function, dotted, read_file_by_file
from gradgate.checks.source.values import assignments_in, own_nodes, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG620", "patience-never-reset"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WAITS = re.compile(r"stale|bad|worse|wait|no_?improv|without|since|patience|plateau|stagna|strike", re.IGNORECASE)
LEFT = re.compile(r"left|remain|patience|lives|chances", re.IGNORECASE)  # what is counted down
BEST = re.compile(r"best|lowest|highest", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for counts that only ever grow."""
    return read_file_by_file(subject, _found, "counts_never_reset")


def _found(file: File) -> Iterator[Finding]:
    compared = {
        dotted(side).rpartition(".")[2]
        for node in file.nodes
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
    }
    for function, _ in file.functions:
        nodes = own_nodes(function)
        if not any(BEST.search(name) for name in _set_in(nodes)):
            continue
        loops = [node for node in nodes if isinstance(node, ast.For | ast.AsyncFor | ast.While)]
        for node in nodes:
            name, waits = _counted(node)
            if name and isinstance(node, ast.stmt):
                last = name.rpartition(".")[2]
                around = [loop for loop in loops if loop.lineno < node.lineno <= (loop.end_lineno or 0)]
                scope = list(ast.walk(around[0])) if around and "." not in name else nodes
                if waits.search(last) and last in compared and name not in _set_in(scope):
                    yield _finding(file, function, node, name, "up" if waits is WAITS else "down")


def _counted(node: ast.AST) -> tuple[str, re.Pattern[str]]:
    """What a statement counts up, or down, and what such counts are called; of another an empty name."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return dotted(node.target), WAITS
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Sub):
        return dotted(node.target), LEFT
    value = node.value if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add | ast.Sub) and isinstance(node, ast.Assign):
        name = dotted(node.targets[0])
        if isinstance(value.right, ast.Constant) and dotted(value.left) == name:
            return name, WAITS if isinstance(value.op, ast.Add) else LEFT
    return "", WAITS


def _set_in(nodes: list[ast.AST]) -> set[str]:
    """The names that are set, also as parts of a tuple, and not to one more or one less."""
    others = [node for node in nodes if not _counted(node)[0]]
    return {dotted(part) for target, _ in assignments_in(others) for part in places_of(target)}


def _finding(file: File, function: Function, node: ast.stmt, name: str, way: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() counts `{name}` {way}, and leaves it so where there is a new best; allowed: 0 "
        "there",
        culprit=file.at(node, function.name),
        fix=f"`{name} = 0` where the best is set, or what it begins with",
        detail={"count": name},
    )
