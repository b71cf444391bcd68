"""The best is kept at multiples of an interval alone: the last steps are never evaluated, a short run has no best.

## What it detects

`if step % eval_every == 0:` around the evaluation that keeps `best.pt`, with nothing for the last step and no further
evaluation behind the loop, in a trainer that reads the best.

## Why it matters

The steps behind the last multiple, which the schedule was to anneal, are trained and never a candidate. A run that is
shorter than the interval keeps no best at all: what reads it fails, or takes the file of an earlier run.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A best is kept where a
branch that decides copies a `state_dict()` into a name with "best" in it, or saves under a name or by a function with
"best" in it, in a loop, or in a function that one calls. It is a finding where

* every such place of that loop stands under a condition `count % n`, with no other one that it may hold by;
* nothing evaluates or keeps a best elsewhere in that function, up to where a state is loaded behind the loop, nor in
  those that call it, and what keeps the best is called nowhere else; and
* something other than a save or a log reads that best.

Statistic: such bests; allowed: 0. A warning, since the limit may always be a multiple of the interval.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if step % config.eval_every == 0:
    keep_if_best(evaluate())
```

Good:

```python
if step % config.eval_every == 0 or step == config.max_steps:
    keep_if_best(evaluate())
```

## How to fix

Evaluate at the last step as well, or once more behind the loop.

## Known limits

Limits and intervals that are written down are not compared. How often a loop evaluates is GG608's, which runs it.

## Sources

A convergence fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.accumulation import every
from gradgate.checks.source.kept_bests import LOADS, SPEAKS, Around, Kept, is_read, kept_bests, loops_around
from gradgate.checks.source.places import Places, read_as_one
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG644", "end-not-evaluated"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EVALUATES = re.compile(r"eval|valid|measure|test|best|judge|consider|score|held_?out", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look at when the best is kept."""
    return read_as_one(subject, [("best",), ("%",)], _of_all, "bests")


def _of_all(own: Places) -> Iterator[Finding]:
    seen: set[int] = set()
    for kept in kept_bests(own):
        for around in loops_around(kept.place, kept.branch, own):
            branch = _now_and_then(around)
            if branch is None or id(branch) in seen or not is_read(kept, own):
                continue
            if _is_elsewhere(around, branch) or _is_called_elsewhere(kept, around, branch, own):
                continue
            seen.add(id(branch))
            yield _finding(kept, around, branch)


def _now_and_then(around: Around) -> ast.If | None:
    """The branch that keeps the best once in several turns; None: there is none, or it is also taken at the end."""
    names, parents = around.place.names, parents_in(around.loop)
    for outer in outwards(around.at, parents):
        if isinstance(outer, ast.If):
            test = names.held(outer.test)
            before = isinstance(outer.test, ast.BoolOp) and any(around.at is node for node in ast.walk(outer.test))
            inside = any(around.at is node for part in outer.body for node in ast.walk(part))
            counted = every(test) if inside or before else None
            if counted is not None:
                return None if is_of_accumulation(ast.unparse(counted[1])) else outer
            if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
                return None
    return None


def _is_elsewhere(around: Around, branch: ast.If) -> bool:
    """Whether a function evaluates outside of that branch, on the weights of the end."""
    inside = set(map(id, ast.walk(branch)))
    nodes = [node for node in around.place.nodes if isinstance(node, ast.Call) and id(node) not in inside]
    for call in sorted(nodes, key=lambda call: (call.lineno, call.col_offset)):
        name = dotted(call.func)
        behind = call.lineno > (around.loop.end_lineno or 0)
        if behind and LOADS.search(name.rpartition(".")[2]):
            return False
        within = around.loop.lineno <= call.lineno
        last = name.rpartition(".")[2]
        if within and EVALUATES.search(last) and last != "eval" and not SPEAKS.search(name):
            return True
    return False


def _is_called_elsewhere(kept: Kept, around: Around, branch: ast.If, own: Places) -> bool:
    """Whether what keeps the best is called outside of that branch, or what calls the loop evaluates, too."""
    inside = set(map(id, ast.walk(branch)))
    names = {kept.place.name} if kept.place.function is not around.place.function else set()
    if isinstance(around.at, ast.Call):
        names.add(called_name(around.at))
    if any(id(call) not in inside for name in names for _, call in own.calls_of(name)):
        return True
    callers = [caller for caller, _ in own.calls_of(around.place.name)]
    callers += [caller for each in callers for caller, _ in own.calls_of(each.function.name)]
    for caller in (each for each in callers if each.function is not around.place.function):
        for node in caller.nodes:
            last = called_name(node)
            if EVALUATES.search(last) and last != "eval" and not LOADS.search(last):
                return True
    return False


def _finding(kept: Kept, around: Around, branch: ast.If) -> Finding:
    function = around.place.name
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() keeps the best (`{ast.unparse(kept.node)}`) only where `{ast.unparse(branch.test)}`: "
        "the last steps are no candidate, and a short run has none; allowed: an evaluation at the end",
        severity="warning",
        culprit=around.place.file.at(branch, function),
        fix="evaluate at the last step as well, or once more behind the loop",
    )
