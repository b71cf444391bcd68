"""The place in the data at which a run goes on is counted in updates, and the loop counts batches.

## What it detects

A number that grows once an update, and says how many batches of the data a resumed epoch passes over, in a loop that
steps its optimizer once in several batches.

## Why it matters

With four batches an update, a run that stopped behind the third update goes on at the third batch and not at the
twelfth: nine batches are trained a second time, and the epoch is longer by as many. With one batch an update, as in a
small run, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Of each loop that runs a
backward at each turn, and steps an optimizer only where a condition holds once in so many turns (`%`) or names
accumulation, it takes the numbers that are raised by one where the optimizer steps, and nowhere else in the loop. It is
a finding where such a number stands, multiplied by nothing,

* in what the loop is over, or in what a name there holds;
* in what the same function sets a start to in front of the loop: an attribute, or a method, of a sampler or a loader
  that is named after starting, skipping or an offset;
* in a condition `i < number` under which a turn is passed over, or in what a name there holds.

Statistic: such numbers; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    if i < self.step_in_epoch:                               # updates
        continue
    (loss_of(batch) / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        self.step_in_epoch += 1
```

Good:

```python
    if i < self.step_in_epoch * n:
        continue
```

## How to fix

Count the batches that were taken, at each turn, and save that number.

## Known limits

Numbers that a function of another object raises, and loops that step in a function of another file, are not seen.
Whether a run that was stopped goes on as if it had not been is GG602's, which runs it.

## Sources

The `steps_trained_in_current_epoch` of transformers' Trainer, which is multiplied by the batches of an update.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from gradgate.checks.accumulation import Accumulation, accumulations, methods_of
from gradgate.checks.source_values import OTHERS, Names, assignments_in, own_nodes
from gradgate.checks.trainer_source import File, dotted, nodes_in, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG624", "position-in-other-units"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
STARTS = re.compile(r"(^|_)(start|skip|offset|first|begin|consumed|fast_forward|seek)(_|$)")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop that steps once in several batches."""
    return read_file_by_file(subject, _of_file, "positions")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("step("):
        return
    methods = methods_of(file)
    in_methods = {function.name: {name for _, name in _raised(own_nodes(function))} for function, _ in file.functions}
    for function, _ in file.functions:
        names, nodes = Names(function), own_nodes(function)
        for found in accumulations(nodes, names, methods):
            inside = list(nodes_in(found.loop.body, *OTHERS))
            taken = {id(node) for part in found.stepping for node in ast.walk(part)}
            raised = [*_raised(inside), *_raised_there(inside, in_methods)]
            once = {name for node, name in raised if id(node) in taken}
            once -= {name for node, name in raised if id(node) not in taken}
            before = [node for node in nodes if getattr(node, "lineno", found.loop.lineno) < found.loop.lineno]
            for number, where in (*_passing_over(found, names), *_starts(before)):
                if counted := sorted(once & _counted(number, names)):
                    yield _finding(file, where, function.name, counted[0], found.when)
                    break


def _counted(number: ast.expr, names: Names) -> set[str]:
    """The names that a number of batches is made of; none where it is multiplied."""
    parts = [part for part in names.parts(number) if isinstance(part, ast.expr)]
    if any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult) for part in parts):
        return set()
    return set() if any(is_of_accumulation(ast.unparse(part)) for part in parts) else {*map(dotted, parts)}


def _raised(nodes: list[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    """The numbers that are raised by one, each with the node that does."""
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and ast.unparse(node.value) == "1":
            yield node, dotted(node.target)


def _raised_there(nodes: list[ast.AST], in_methods: Mapping[str, set[str]]) -> Iterator[tuple[ast.AST, str]]:
    """The numbers that methods of the same object raise, each with the node that calls one."""
    for node in nodes:
        if isinstance(node, ast.Call) and dotted(node.func).startswith("self."):
            yield from ((node, name) for name in in_methods.get(dotted(node.func).removeprefix("self."), ()))


def _starts(nodes: list[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a sampler or a loader is told to begin at, each with the node to name."""
    for target, value in assignments_in(nodes):
        if isinstance(target, ast.Attribute) and STARTS.search(target.attr):
            yield value, value
    for node in nodes:
        if isinstance(node, ast.Call) and STARTS.search(dotted(node.func).rpartition(".")[2]):
            yield from ((given, node) for given in node.args)


def _passing_over(found: Accumulation, names: Names) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What says how many turns are passed over, each with the node to name."""
    if isinstance(found.loop, ast.For):
        starts = [call for call in ast.walk(found.loop.iter) if isinstance(call, ast.Call)]
        for call in starts:
            for given in (*call.args, *(keyword.value for keyword in call.keywords)):
                if isinstance(held := names.held(given), ast.Name | ast.Attribute | ast.BinOp):
                    yield held, call
    for node in found.loop.body:
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Continue):
            for test in (part for part in ast.walk(node.test) if isinstance(part, ast.Compare)):
                if len(test.ops) == 1 and isinstance(test.ops[0], ast.Lt | ast.LtE):
                    yield test.comparators[0], test
                if len(test.ops) == 1 and isinstance(test.ops[0], ast.Gt | ast.GtE):
                    yield test.left, test


def _finding(file: File, node: ast.expr, function: str, name: str, when: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() passes over as many batches as `{name}` says, which grows where `{when}`; allowed: a count "
            "of batches"
        ),
        culprit=file.at(node, function),
        fix="count the batches that were taken, at each turn, and save that number",
    )
