"""A run that is stopped early leaves out what stands behind its loop, or one that fails writes its state as usual.

## What it detects

`return` on patience within the training loop, and a save or an export behind that loop; an `else` of a loop that
saves, and a `break` of it; a `finally` that saves the run's state under its usual name.

## Why it matters

A run that is stopped early, which is what early stopping is for, has no final file, and the next stage takes an older
one or fails. A `finally` also runs behind a NaN, an interrupt in the middle of an update, or a failed save: what is
broken is written over the last good state.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A loop trains where it makes
an update, or calls what is named after training. It is a finding where

* a branch of it that asks for patience, a stop or a limit returns, without a call that saves, and a statement of the
  same function behind the loop, under no condition, saves or exports;
* it has an `else` that saves or exports, and such a branch breaks;
* it stands in a `try`, or is called there, and its `finally` saves, under no condition, what is called after a state or
  is put under a name with last, latest or checkpoint, and the `try` has no `except`.

Statistic: such ends; allowed: 0. A warning, since an end may be meant for whole runs, or for failed ones.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for step in range(start, steps):
    update()
    if stop.update(evaluate()):
        return best
save(final)
```

Good:

```python
    if stop.update(evaluate()):
        break
save(final)
```

## How to fix

Leave the loop by `break`, and save behind it; in a `finally`, save under another name.

## Known limits

What an exception leaves behind in a callback is not looked at. Whether the loop stops where it should is GG608's.

## Sources

A fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.accumulation import steps_in
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted, nodes_in, read_file_by_file
from gradgate.checks.source.values import OTHERS, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG646", "end-left-out"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
STOPS = re.compile(
    r"patien|stop|(max|num|total|limit|n)_?(\w+_)?(steps?|iters?|iterations|updates|tokens)|should_end|is_done", re.I
)
TRAINS = re.compile(r"^_?(train|fit|update|optimi[sz]e|step|backward|run_epoch|epoch|loop)", re.IGNORECASE)
GIVES = re.compile(r"(^|_)(save|export|publish|checkpoint|dump)(_|$)|save_pretrained|^push_to", re.IGNORECASE)
NO_FILE = re.compile(r"plot|fig|log|metric|histor|config|json|csv|curve|summary|args|settings", re.IGNORECASE)
USUAL = re.compile(r"last|latest|checkpoint|ckpt|state|\.pt\b|save_?$", re.IGNORECASE)
OTHERWISE = re.compile(r"crash|interrupt|emergency|abort|fail|partial|rescue|except|error|broken", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look at what ends a run otherwise than by its last turn."""
    return read_file_by_file(subject, _of_file, "ends")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("save", "export", "publish", "checkpoint", "dump"):
        return
    for function, _ in file.functions:
        for node in own_nodes(function):
            if isinstance(node, ast.For | ast.While) and _trains(node.body):
                yield from _stopped(file, function, node)
            elif isinstance(node, ast.Try) and node.finalbody and file.has("finally"):
                yield from _failed(file, function, node)


def _trains(body: Iterable[ast.AST]) -> bool:
    nodes = list(nodes_in(body, *OTHERS))
    names = (dotted(node.func) for node in nodes if isinstance(node, ast.Call))
    named = (name.rpartition(".")[2] for name in names if name.rpartition(".")[0] in ("", "self"))
    return any(steps_in(nodes)) or any(TRAINS.search(name) for name in named)


def _stopped(file: File, function: Function, loop: ast.For | ast.While) -> Iterator[Finding]:
    """The branches of a loop that leave out what stands behind it."""
    behind = _behind(function, loop)
    given = next((call for each in behind for call in _gives([each])), None)
    other = next(iter(_gives(loop.orelse)), None)
    for branch in (node for node in nodes_in(loop.body, *OTHERS) if isinstance(node, ast.If)):
        if not STOPS.search(ast.unparse(branch.test)) or any(True for _ in _gives(branch.body)):
            continue
        last = branch.body[-1]
        if isinstance(last, ast.Return) and given is not None and not _saved_before(loop, branch):
            yield _finding(file, function, last, f"returns on `{ast.unparse(branch.test)}`", given)
        elif isinstance(last, ast.Break) and other is not None and _is_of(loop, last):
            yield _finding(file, function, last, f"breaks on `{ast.unparse(branch.test)}`", other)


def _saved_before(loop: ast.For | ast.While, branch: ast.If) -> bool:
    """Whether the block of a branch saves right in front of it, whatever comes."""
    for node in (loop, *nodes_in(loop.body, *OTHERS)):
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if isinstance(block, list) and branch in block:
                front = [each for each in block[: block.index(branch)] if isinstance(each, ast.Expr | ast.Assign)]
                return any(True for _ in _gives(front))
    return False


def _is_of(loop: ast.For | ast.While, leaving: ast.Break) -> bool:
    """Whether a `break` leaves this loop, and not one within it."""
    return any(node is leaving for node in nodes_in(loop.body, *OTHERS, ast.For, ast.While))


def _behind(function: Function, loop: ast.For | ast.While) -> list[ast.stmt]:
    """The statements of a function behind a loop that run under no condition."""
    found: list[ast.stmt] = []
    for each in function.body:
        if each.lineno > (loop.end_lineno or 0):
            found += each.body if isinstance(each, ast.With) else [each]
    return [each for each in found if isinstance(each, ast.Expr | ast.Assign | ast.Return)]


def _gives(statements: Iterable[ast.stmt]) -> Iterator[ast.Call]:
    """The calls that save or export weights."""
    for each in statements:
        for call in calls_in(each):
            if GIVES.search(called_name(call)) and not NO_FILE.search(ast.unparse(call)):
                yield call


def _failed(file: File, function: Function, attempt: ast.Try) -> Iterator[Finding]:
    """A save of the state that also runs where training has failed."""
    if attempt.handlers or not _trains(attempt.body):
        return
    for each in (each for each in attempt.finalbody if isinstance(each, ast.Expr | ast.Assign)):
        for call in _gives([each]):
            told = ast.unparse(call)
            if USUAL.search(told) and not OTHERWISE.search(told):
                yield Finding(
                    code=CODE,
                    name=NAME,
                    message=f"{function.name}() saves by `{told}` whatever has happened: a run that fails within an "
                    "update writes that over its last good state; allowed: none",
                    severity="warning",
                    culprit=file.at(call, function.name),
                    fix="save behind the loop, and in a `finally` under another name",
                )


def _finding(file: File, function: Function, node: ast.stmt, told: str, given: ast.Call) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() {told} within its loop, and line {given.lineno}, `{ast.unparse(given)}`, is left "
        "out; allowed: none",
        severity="warning",
        culprit=file.at(node, function.name),
        fix="leave the loop by `break`, and save behind it",
    )
