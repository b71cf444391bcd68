"""A batch that is passed over is counted, and where it is the last of its update the optimizer does not step.

## What it detects

`continue` for a batch that is not finite, too large or without labels, in front of the branch that steps the optimizer
where the number of the batch is a multiple of those in an update.

## Why it matters

Where the batch is the last one of its update, nothing steps: the gradients of the others stay, and the next update is
made of twice as many batches, at a rate and a clipping that are meant for one; at the end of the data they are lost,
or leak into the next epoch. Where it is another one, the update has a batch less and is divided as if it had all of
them. A run in which no batch is passed over, as a small one, does not show it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. In a loop that runs a
backward at each turn, and steps an optimizer only where a condition holds once in so many turns (`%`), or in a function
that is such a turn, a finding is a branch in front of the one that steps, or an `except` for a lack of memory,

* which ends the turn (`continue`; in a function, `return`);
* and whose condition reads what the turn has made or was given;
* where what is counted is the number that the loop gives, or is counted on in front of that branch.

Branches that ask for the number itself (batches that a resumed run has seen), that clear the gradients, step, or change
what is counted are clean, and so is a counter that is raised behind them. Statistic: such branches; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    loss = loss_of(batch)
    if not torch.isfinite(loss):
        continue
    (loss / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
```

Good:

```python
    if torch.isfinite(loss):
        (loss / n).backward()
    if (i + 1) % n == 0:                                     # with what the update has
        optimizer.step()
        optimizer.zero_grad()
```

## How to fix

Leave out the backward alone, or count the batches that are in the update by a counter of their own.

## Known limits

What another file's function skips is not seen. That a step with a loss that is not finite changes nothing is GG303's,
which runs it.

## Sources

The `do_sync_step` of transformers' Trainer, by which a batch counts by its place in the epoch, and which every batch
comes to.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.accumulation import methods_of, steps_in
from gradgate.checks.source.trainer import File, Function, calls_in, dotted, nodes_in, read_file_by_file
from gradgate.checks.source.update_turns import Own, Turn, raised_by, read_in, turns_of
from gradgate.checks.source.values import OTHERS, assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG636", "skipped-batch-loses-update"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MEMORY = re.compile(r"OutOfMemory|OOM")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what ends a turn in front of the branch that steps."""
    return read_file_by_file(subject, _of_file, "skips")


def _of_file(file: File) -> Iterator[Finding]:
    if not (file.has(" % ") and file.has("backward") and file.has("continue", "return")):
        return
    own, seen = Own(file), set[int]()
    for turn in turns_of(file, methods_of(file)):
        for branch, told in _skips(turn, own):
            if id(branch) not in seen:
                seen.add(id(branch))
                yield _finding(file, branch, turn, told)


def _skips(turn: Turn, own: Own) -> Iterator[tuple[ast.If | ast.ExceptHandler, str]]:
    """The branches that end a turn in front of the one that steps, each with what is told of it."""
    if turn.counted is None:
        return
    counted = read_in(turn.counted[0])
    made = {ast.unparse(target) for target, _ in assignments_in(turn.others)} | turn.targets | _given(turn)
    in_front = [node for node in _in_front(turn.body.body, turn) if node.lineno < turn.branch.lineno]
    for branch in in_front:
        if not _leaves(branch, turn) or _settles(branch, counted):
            continue
        if not _is_counted(branch, turn, counted, own):
            continue
        if isinstance(branch, ast.ExceptHandler):
            yield branch, f"`except {ast.unparse(branch.type) if branch.type else ''}`"
        elif read_in(branch.test) & (made - counted) and not read_in(branch.test) & counted:
            yield branch, f"`{ast.unparse(branch.test)}`"


def _given(turn: Turn) -> set[str]:
    """What a function is given that is one turn."""
    return {given.arg for given in turn.body.args.args} - {"self"} if isinstance(turn.body, Function) else set()


def _in_front(block: list[ast.stmt], turn: Turn) -> Iterator[ast.If | ast.ExceptHandler]:
    """The branches that each turn comes to, and what catches a lack of memory."""
    for statement in block:
        if statement is turn.branch:
            return
        if isinstance(statement, ast.If):
            yield statement
        elif isinstance(statement, ast.With | ast.AsyncWith):
            yield from _in_front(statement.body, turn)
        elif isinstance(statement, ast.Try):
            yield from _in_front(statement.body, turn)
            yield from (one for one in statement.handlers if one.type and MEMORY.search(ast.unparse(one.type)))


def _leaves(branch: ast.If | ast.ExceptHandler, turn: Turn) -> bool:
    """Whether a branch ends the turn, and no run or function of more turns."""
    last = branch.body[-1]
    if isinstance(turn.body, Function):
        return isinstance(last, ast.Return)
    return isinstance(last, ast.Continue)


def _settles(branch: ast.If | ast.ExceptHandler, counted: set[str]) -> bool:
    """Whether a branch clears what is there, steps, or changes what is counted."""
    nodes = list(nodes_in(branch.body, *OTHERS))
    changed = {ast.unparse(target) for target, _ in assignments_in(nodes)}
    changed |= {text for node in nodes for text in raised_by(node)}
    cleared = any(
        dotted(call.func).endswith(("zero_grad", "backward")) for call in calls_in(ast.Module(branch.body, []))
    )
    return bool(changed & counted) or cleared or any(steps_in(nodes))


def _is_counted(branch: ast.If | ast.ExceptHandler, turn: Turn, counted: set[str], own: Own) -> bool:
    """Whether what a branch passes over counts: by the number of the loop, or by a counter in front of it."""
    if isinstance(turn.body, ast.For) and isinstance(turn.body.target, ast.Tuple):
        called = {dotted(call.func) for call in calls_in(turn.body.iter)}
        if "enumerate" in called and ast.unparse(turn.body.target.elts[0]) in counted:
            return True
    in_front = [node for node in turn.others if getattr(node, "lineno", branch.lineno) < branch.lineno]
    behind = [node for node in turn.others if getattr(node, "lineno", 0) > branch.lineno]
    if isinstance(turn.body, Function) and counted & _given(turn) and not own.raised(turn.others) & counted:
        return True
    return bool(own.raised(in_front) & counted) and not own.raised(behind) & counted


def _finding(file: File, branch: ast.If | ast.ExceptHandler, turn: Turn, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{turn.function.name}() passes over a batch where {told}, and steps only where `{turn.when}` behind it: "
            "where that batch is the last of its update, nothing steps; allowed: none"
        ),
        culprit=file.at(branch, turn.function.name),
        fix="leave out the backward alone, or count the batches of an update by a counter of their own",
    )
