"""What runs once in so many updates stands in the loop over batches, and runs for each batch of such an update.

## What it detects

An evaluation, a save or a line of the log where `step % interval == 0`, in a loop over batches, outside of the branch
that steps the optimizer and counts `step` on.

## Why it matters

Between two updates `step` stands still. Where it is a multiple of the interval, the condition holds for every batch of
the next update: with 8 of them a run is evaluated eight times with the same weights, patience is used up eight times as
fast, and a checkpoint is written from the middle of an update, whose gradients are not in it. At step 0 it holds, too,
in front of the first update. With one batch an update, as in a small run, only that one is seen.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. In a loop that runs a
backward at each turn, and steps an optimizer only where a condition holds once in so many turns (`%`) or names
accumulation; or in a function that is such a turn, and the loops of the file that call it. A counter is what is counted
on where the optimizer steps, there or in a function of the file that is called there, and nowhere else in the loop; or
the number of the turn divided by that of the batches in an update. A finding is a branch

* whose condition asks for a multiple of something by such a counter, with `and` beside nothing but settings and which
  process it is;
* which stands at each turn, in the loop or in a function of the file that each turn calls;
* and which calls what is named after an evaluation, a save, a log, a stop or a report.

What stands behind a `continue` of turns that do not step is clean. Statistic: such branches; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    (loss_of(batch) / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
        step += 1
    if step % config.eval_every == 0:
        stop.update(evaluate(model))
```

Good:

```python
        step += 1
        if step % config.eval_every == 0:                    # in the branch
            stop.update(evaluate(model))
```

## How to fix

Put it where the optimizer steps, behind what counts the update.

## Known limits

Counters that another file's function counts on, and what is named otherwise, are not seen. How often a loop evaluates
is GG608's, which runs it.

## Sources

The examples of accelerate, which ask `accelerator.sync_gradients` beside the number of steps before they save.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.accumulation import alternatives, every, methods_of
from gradgate.checks.source.trainer import File, Function, calls_in, dotted, nodes_in, read_file_by_file
from gradgate.checks.source.update_turns import Own, Turn, read_in, turns_of
from gradgate.checks.source.values import OTHERS, Names, assignments_in, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG633", "interval-once-a-micro-batch"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
INTERVAL = re.compile(
    r"eval|valid|test|save|checkpoint|ckpt|snapshot|(^|[._])log(?!it)|print|write|patience|stop|report|sample|generat",
    re.IGNORECASE,
)
GATHERS = re.compile(r"\.(append|add|extend|item|get)$")
SETTLED = re.compile(
    r"^(self\.)?_?(c|cfg|config|args|opts?|options|settings|recipe|params|hparams|hp)\b|main|rank|leader|master|primary",
    re.IGNORECASE,
)
ASKS = ("isinstance", "hasattr", "int", "bool", "len")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop that steps once in several turns."""
    return read_file_by_file(subject, _of_file, "intervals")


def _of_file(file: File) -> Iterator[Finding]:
    if not (file.has(" % ") and file.has("backward") and file.has("step")):
        return
    own, seen = Own(file), set[int]()
    for turn in turns_of(file, methods_of(file)):
        for branch, function in _of_turn(turn, own, file):
            if id(branch) not in seen:
                seen.add(id(branch))
                yield _finding(file, branch, function.name, turn)


def _of_turn(turn: Turn, own: Own, file: File) -> Iterator[tuple[ast.If, Function]]:
    """The branches that are taken by a counter of updates, at each turn."""
    counters = own.raised(node for part in turn.stepping for node in ast.walk(part)) - own.raised(turn.others)
    size = ast.unparse(turn.counted[1]) if turn.counted else ""
    for target, value in assignments_in(turn.others):
        if _is_divided(value, size):
            counters.add(ast.unparse(target))
    leaves = ast.Return if isinstance(turn.body, Function) else ast.Continue
    yield from Reading(turn, turn.function, frozenset(counters), size, leaves).intervals(turn.body.body, own)
    if isinstance(turn.body, Function):
        for loop, function in _loops_that_call(turn.function, own, file):
            left = frozenset(counters - own.raised(nodes_in(loop.body, *OTHERS), 0))
            around = Reading(turn, function, left, size, ast.Continue)
            yield from around.intervals(loop.body, own)


def _is_divided(value: ast.AST, size: str) -> bool:
    """Whether a value is the number of updates that so many batches make."""
    return (
        isinstance(value, ast.BinOp)
        and isinstance(value.op, ast.FloorDiv)
        and bool(size)
        and ast.unparse(value.right) == size
    )


def _loops_that_call(called: Function, own: Own, file: File) -> Iterator[tuple[ast.For | ast.While, Function]]:
    for function, _ in file.functions:
        for loop in own_nodes(function):
            if isinstance(loop, ast.For | ast.While) and any(
                own.called(node) is called for node in nodes_in(loop.body, *OTHERS, ast.For, ast.While)
            ):
                yield loop, function


class Reading:
    """A turn's statements, read for what happens at an interval.

    Args:
        turn: that steps now and then.
        function: whose statements are read.
        counters: of updates, as they are written there.
        size: of an update, in batches.
        leaves: the statement that ends a turn there.
    """

    def __init__(
        self, turn: Turn, function: Function, counters: frozenset[str], size: str, leaves: type[ast.stmt]
    ) -> None:
        self._turn, self._function, self._counters, self._size = turn, function, counters, size
        self._leaves = leaves
        self._names = Names(function)
        nodes = own_nodes(function)
        self._changed = {ast.unparse(target) for target, _ in assignments_in(nodes)} | turn.targets

    def intervals(self, block: list[ast.stmt], own: Own, hops: int = 1) -> Iterator[tuple[ast.If, Function]]:
        """The branches at an interval that each turn comes to, in the functions that it calls as well."""
        behind = self._function is not self._turn.function
        for statement in block:
            if id(statement) in self._turn.taken:
                continue
            behind = behind or statement is self._turn.branch
            if isinstance(statement, ast.With | ast.AsyncWith | ast.Try):
                yield from self.intervals(statement.body, own, hops)
            elif not isinstance(statement, ast.If):
                yield from self._called(statement, own) if hops else ()
            elif self._is_interval(statement.test):
                if any(map(_acts, calls_in(ast.Module(statement.body, [])))):
                    yield statement, self._function
            elif self._is_settled(statement.test):
                yield from self.intervals(statement.body, own, hops)
            elif behind and self._passes_on(statement):
                return

    def _called(self, statement: ast.stmt, own: Own) -> Iterator[tuple[ast.If, Function]]:
        for call in (node for node in nodes_in([statement], *OTHERS, ast.For, ast.While, ast.IfExp)):
            function = own.called(call)
            if function is None or not isinstance(call, ast.Call) or function is self._turn.function:
                continue
            names = [given.arg for given in function.args.args if given.arg != "self"]
            given = dict(zip(names, map(ast.unparse, call.args), strict=False))
            given |= {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}
            counters = {name for name, text in given.items() if text in self._counters}
            counters |= {text for text in self._counters if text.startswith("self.")}
            if counters:
                inner = Reading(self._turn, function, frozenset(counters), self._size, ast.Return)
                yield from inner.intervals(function.body, own, 0)

    def _is_interval(self, test: ast.expr) -> bool:
        test = self._names.held(test)
        return any(map(self._holds_at_multiples, alternatives(test)))

    def _holds_at_multiples(self, test: ast.expr) -> bool:
        parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
        asked = [part for part in parts if self._is_of_updates(part)]
        return bool(asked) and all(part in asked or self._is_settled(part) for part in parts)

    def _is_of_updates(self, test: ast.expr) -> bool:
        """Whether a condition asks a counter of updates for a multiple."""
        counted = every(self._names.held(test))
        if counted is None or ast.unparse(counted[1]) == self._size:
            return False
        read = read_in(counted[0])
        return _is_divided(counted[0], self._size) or bool(read & self._counters and not read & self._turn.targets)

    def _is_settled(self, test: ast.expr) -> bool:
        """Whether a condition is the same at each turn, or asks the counter alone."""
        if any(not (dotted(call.func) in ASKS or SETTLED.search(dotted(call.func))) for call in calls_in(test)):
            return False
        outermost = nodes_in([test], ast.Attribute, ast.Subscript)
        for node in (node for node in outermost if isinstance(node, ast.Name | ast.Attribute | ast.Subscript)):
            text = ast.unparse(node)
            settled = SETTLED.search(text) or (isinstance(node, ast.Name) and text not in self._changed)
            if text not in self._counters and not settled:
                return False
        return True

    def _passes_on(self, branch: ast.If) -> bool:
        """Whether a branch ends the turn."""
        return any(isinstance(node, self._leaves) for node in nodes_in([branch], *OTHERS, ast.For, ast.While))


def _acts(call: ast.Call) -> bool:
    name = dotted(call.func)
    if name.endswith(".update"):
        return bool(re.search(r"stop|patience", name, re.IGNORECASE))
    return bool(INTERVAL.search(name)) and not GATHERS.search(name)


def _finding(file: File, branch: ast.If, function: str, turn: Turn) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() asks `{ast.unparse(branch.test)}` at each batch, and the optimizer steps only where "
            f"`{turn.when}`: it holds for every batch of an update; allowed: once an update"
        ),
        culprit=file.at(branch, function),
        fix="put it where the optimizer steps, behind what counts the update",
    )
