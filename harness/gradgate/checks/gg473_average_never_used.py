"""An average of the weights is kept, and nothing reads it.

## What it detects

`ema = EMA(model, 0.999)` that every step moves and every checkpoint holds, where each evaluation, the best checkpoint
and what is handed on take the model itself.

## Why it matters

It costs a copy of the model and time at every step, and its promise, that what is evaluated is the average, is not
kept. A comparison of runs with and without it compares nothing.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are names or
attributes of an average (ema, shadow, average) that a class or function of averages makes (EMA,
ExponentialMovingAverage, AveragedModel), of which all that the files do is to move them (`update`,
`update_parameters`), to save, load, count or move them to a device, and which nothing is given but what does so.

Statistic: such averages; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
ema.update(model)
score = evaluate(model)
```

Good:

```python
ema.update(model)
with ema.applied(model):
    score = evaluate(model)
```

## How to fix

Evaluate and hand on the average, or do not keep it.

## Known limits

A file that another program loads may be what it is for: a warning. Whether the model that is saved as the best is the
one whose score was taken, is GG658's.

## Sources

PyTorch, `torch.optim.swa_utils`: an averaged model is what is evaluated at the end.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.averages import AVERAGE
from gradgate.checks.source.trainer import NONE, File, files_of
from gradgate.checks.source.values import assignments_in, last_name, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG473", "average-never-used"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MAKES = re.compile(r"^(EMA|Ema\w*|\w*EMA|ExponentialMovingAverage|\w*MovingAverage|AveragedModel|WeightAverage\w*)$")
KEEPS = re.compile(r"^(update\w*|step|state_dict|load_state_dict|to|reset|register)$")
STORES = re.compile(
    r"(^|_)(save|dump|load|restore|state|checkpoint|update|snapshot)(_|$)|^(dict|isinstance|print|len|hasattr)$"
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for averages that nothing but their keeping reads."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    made = [(file, last_name(target), value) for file in files for target, value in _made(file)]
    names = {name for _, name, _ in made}
    read = {name for file in files if names and file.has(*names) for name in _read(file, names)}
    findings = tuple(_finding(file, value, name) for file, name, value in made if name not in read)
    return Outcome(findings, {"averages": len(findings)}, {"averages": 0})


def _made(file: File) -> Iterator[tuple[ast.expr, ast.expr]]:
    if not file.has("EMA", "Ema", "MovingAverage", "AveragedModel", "WeightAverage"):
        return
    for target, value in assignments_in(file.nodes):
        calls = [node for node in ast.walk(value) if isinstance(node, ast.Call)]
        if AVERAGE.search(last_name(target)) and any(MAKES.search(last_name(call.func)) for call in calls):
            yield target, value


def _read(file: File, names: set[str]) -> Iterator[str]:
    """Those of the names that are read for more than to keep what they hold."""
    parents = parents_in(file.tree)
    for node in file.nodes:
        if not isinstance(node, ast.Name | ast.Attribute) or last_name(node) not in names:
            continue
        if isinstance(node.ctx, ast.Load) and not _only_keeps(node, parents):
            yield last_name(node)


def _only_keeps(node: ast.AST, parents: dict[int, ast.AST]) -> bool:
    parent = parents.get(id(node))
    if isinstance(parent, ast.Attribute):
        called = parents.get(id(parent))
        return bool(KEEPS.search(parent.attr)) and isinstance(called, ast.Call) and called.func is parent
    if isinstance(parent, ast.Compare | ast.If | ast.IfExp | ast.BoolOp | ast.UnaryOp):
        return True
    for each in outwards(node, parents):
        if isinstance(each, ast.Call):
            return bool(STORES.search(last_name(each.func)))
        if isinstance(each, ast.stmt):
            return False
    return False


def _finding(file: File, value: ast.expr, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=f"`{name}` is kept and nothing but saves and loads reads it; allowed: one that is evaluated",
        culprit=file.at(value),
        fix="evaluate and hand on the average, or do not keep it",
    )
