"""The last batches of an epoch, too few for a whole group, are never stepped, or leak into the next one's first update.

## What it detects

`if (i + 1) % n == 0: optimizer.step()` in a loop over data, where nothing steps behind the loop; a group of batches
that is given on when it is full, where nothing gives on the last one; a packer that puts a row away when the next
document does not fit, and never the last row.

## Why it matters

With 10 batches and groups of 4, two batches of each epoch train nothing, or their gradient is added to the first group
of the next one, which is then too large. Where an epoch has fewer batches than a group, nothing is trained at all, or
a loop that waits for a number of updates never ends. Small runs without accumulation do not show it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, function by function:

* a loop over an `enumerate` runs a backward at each turn, and steps in a branch that holds once in so many turns by the
  number that `enumerate` gives, or where a count or the `len` of a list, which begins at nothing in front of the loop
  and behind each step, reaches a size; or behind a branch that passes on to the next turn in all others; nothing else
  in the function steps, and the condition has no `or`;
* in a loop elements are added to a list, a text or an object that begins in front of it, or as None; in a branch, as
  where its `len` reaches a size or the next element has no room, it is yielded, put into another list, itself or what
  is made of it, or handed to what is called after a step, an update or the writing of a part, and is begun anew;
  nothing reads it behind the loop, or, of one that is given on where the next element has no room, only where it has
  more than one (`if len(current) > 1`). So too lists by a key that are given on one by one, an attribute that no other
  method reads, and a group that a function puts away which is called there and nowhere else.

Backwards and steps are also those of functions of the trainer's that always make one, however many calls are between.

So too windows that are cut so that none is short, of which a loop goes backward for each batch, wherever it stands:
`zip(*[iter(batches)] * n)`, `len(batches) // n` slices, `n` times `next` where the end of the data ends it.

A number that is counted on over epochs, a loop without an end (`while True`, `cycle`), one that is in no other and has
a `break`, and a function that says somewhere in its text that it drops what is left (`drop_last`, `remainder`,
`incomplete`, "is left") are clean. Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    (loss_of(batch) / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
```

Good:

```python
    if (i + 1) % n == 0 or i + 1 == len(loader):             # and divide by the size of the group that it is
```

## How to fix

Step what is left at the end of an epoch, weighed by the batches that it has; or leave it out on purpose, under a
setting that says so.

## Known limits

Groups of rows that are cut by index are not seen. Whether unequal groups weigh right is GG410's.

## Sources

The `do_sync_step` of transformers' Trainer, which asks for the last batch of an epoch as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain

from gradgate.checks.source.accumulation import (
    ENDLESS,
    Accumulation,
    Methods,
    accumulations,
    begun_anew,
    counted_to,
    every,
    is_nothing,
    methods_of,
    steps_in,
)
from gradgate.checks.source.full_groups import SHOWS, UPDATES, not_given_on, reads
from gradgate.checks.source.places import Places, places_in
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted, files_of, read_file_by_file
from gradgate.checks.source.values import Names, assignments_in, contains, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG426", "accumulation-remainder"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
ON_PURPOSE = re.compile(
    r"drop_?(last|rem|incompl|partial)|\bdrops?\b|remainder|incomplete|leftover|\b(is|are) left\b|\bleft out\b",
    re.IGNORECASE,
)
LAST = "gives `{group}` on where it is full, and never the last one, which has fewer elements"
CUT = "cuts batches into whole windows alone, `{cut}`: those that are left are never trained on"
FIX = "step what is left at the end of an epoch, or leave it out under a setting that says so"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop that steps, or gives on, once in several batches."""
    own = places_in(files_of(subject))
    return read_file_by_file(subject, lambda file: _of_file(file, own), "remainders")


def _of_file(file: File, own: Places) -> Iterator[Finding]:
    parents: dict[int, ast.AST] = {}
    methods = methods_of(file, own)
    whole = [cut for cut in methods.windows.values() if not cut.short and not ENDLESS.search(ast.unparse(cut.node))]
    groups = file.has("append", "yield", "extend", ".clear(", "flush")
    repeated = {
        called_name(call)
        for loop in file.nodes
        if isinstance(loop, ast.For | ast.While) and file.has("backward")
        for call in calls_in(loop)
    }
    for place in own.functions:
        function, nodes = place.function, place.nodes
        if place.file is not file or ON_PURPOSE.search(
            "\n".join(file.lines[function.lineno - 1 : function.end_lineno])
        ):
            continue
        parents = parents or parents_in(file.tree)
        seen: set[int] = set()
        lost = not_given_on(place, own, parents) if groups else ()
        told_of = ((node, LAST.format(group=group)) for node, group in lost)
        cuts = ((cut.node, CUT.format(cut=ast.unparse(cut.node))) for cut in whole if cut.place is place)
        for node, told in chain(_unstepped(function, nodes, methods, repeated), told_of, cuts):
            if id(node) in seen or (seen and told.startswith("cuts")):
                continue
            seen.add(id(node))
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{function.name}() {told}; allowed: none",
                culprit=file.at(node, function.name),
                fix=FIX,
            )


def _unstepped(
    function: Function, nodes: list[ast.AST], methods: Methods, repeated: set[str]
) -> Iterator[tuple[ast.AST, str]]:
    """Branches that step once in several batches of an epoch, where nothing else does.

    A function that loops call runs an epoch: that it is left early is no sign of data without an end.
    """
    for found in accumulations(nodes, Names(function), methods):
        size = _size(found, nodes)
        if size is None or not isinstance(found.loop, ast.For):
            continue
        if function.name not in repeated and _is_left_early(found.loop, nodes):
            continue
        taken = {id(node) for part in found.stepping for node in ast.walk(part)}
        others = [call for call in steps_in(nodes, methods) if id(call) not in taken]
        if others or any(_may_step(node, found.loop) for node in nodes):
            continue
        around = [node for node in nodes if isinstance(node, ast.For | ast.While) and _is_in(found.loop, node)]
        of_each_epoch = ast.walk(around[-1]) if around else nodes
        cleared = any(id(node) not in taken and _clears(node) for node in of_each_epoch)
        lost = "are thrown away" if cleared else "leak into the first update of the next one"
        told = f"steps where `{found.when}`, and nothing steps behind the loop"
        yield found.branch, f"{told}: the last batches of an epoch, fewer than `{ast.unparse(size)}`, {lost}"


def _size(found: Accumulation, nodes: list[ast.AST]) -> ast.expr | None:
    """How many batches make an update of an epoch, where each epoch counts them from the start; None: none does."""
    if not isinstance(found.loop, ast.For) or ENDLESS.search(ast.unparse(found.loop.iter)):
        return None
    if (counted := every(found.test)) is not None:
        return counted[1] if _numbers(found.loop, counted[0]) else None
    if not begun_anew(found.test, found.stepping):
        return None
    name = dotted(counted_to(found.test))
    around = [node for node in nodes if isinstance(node, ast.For | ast.While) and _is_in(found.loop, node)]
    inner = min(around, key=lambda loop: sum(1 for _ in ast.walk(loop)), default=None)
    where = list(ast.walk(inner)) if inner is not None else nodes
    begun = any(
        dotted(target) == name and is_nothing(value) and value.lineno < found.loop.lineno
        for target, value in assignments_in(where)
    )
    read_behind = any(reads(node, name) and node.lineno > (found.loop.end_lineno or 0) for node in nodes)  # type: ignore[attr-defined]
    test = found.test.operand if isinstance(found.test, ast.UnaryOp) else found.test
    return test.comparators[0] if begun and not read_behind else None  # type: ignore[attr-defined]


def _is_in(loop: ast.AST, other: ast.AST) -> bool:
    return loop is not other and contains(other, loop)


def _numbers(loop: ast.For, counted: ast.expr) -> bool:
    """Whether what is counted is the number that an `enumerate` over data gives."""
    if not isinstance(loop.target, ast.Tuple):
        return False
    called = {dotted(node.func) for node in ast.walk(loop.iter) if isinstance(node, ast.Call)}
    number = ast.unparse(loop.target.elts[0])
    return "enumerate" in called and any(dotted(node) == number for node in ast.walk(counted))


def _is_left_early(loop: ast.For, nodes: list[ast.AST]) -> bool:
    """Whether a loop that is in no other one is left by a number of steps: its data need not have an end."""
    nested = any(isinstance(node, ast.For | ast.While) and _is_in(loop, node) for node in nodes)
    return not nested and any(isinstance(node, ast.Break | ast.Return) for node in ast.walk(loop))


def _may_step(node: ast.AST, loop: ast.For) -> bool:
    """Whether a call behind a loop may step what is left."""
    if not isinstance(node, ast.Call) or node.lineno <= (loop.end_lineno or loop.lineno):
        return False
    return bool(UPDATES.search(name := dotted(node.func))) and not SHOWS.search(name)


def _clears(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func).endswith("zero_grad")
