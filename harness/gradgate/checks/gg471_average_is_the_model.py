"""An average of weights holds the model's own tensors.

## What it detects

`self.shadow = {name: p.data for name, p in model.named_parameters()}`, or `model.state_dict()`: no copies, so that
what moves the average moves the model, and the two are one.

## Why it matters

`shadow.mul_(decay).add_(p, alpha=1 - decay)` writes the parameter into itself. The average is the model at every step,
and an evaluation of it says what one without it does; a copy that is swapped in changes nothing.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are assignments of
a name of an average (ema, shadow, average, polyak) whose value is the state of a model, or a mapping or list of its
parameters, with nothing that copies (`clone`, `deepcopy`, `zeros_like`) in it, where the same class, or function,
writes such a name's tensors in place (`mul_`, `lerp_`, `copy_`, `add_`).

Statistic: such assignments; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
self.shadow = {name: p.data for name, p in model.named_parameters()}
```

Good:

```python
self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
```

## How to fix

Copy the tensors: `p.detach().clone()`, or `copy.deepcopy(model)`.

## Known limits

An average that is made by a function of another file is not followed.

## Sources

PyTorch, `torch.optim.swa_utils.AveragedModel`, which makes a deep copy of the model.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.checks.source.averages import AVERAGE
from gradgate.checks.source.live_states import WEIGHTS, is_the_models
from gradgate.checks.source.trainer import File, Function, read_file_by_file
from gradgate.checks.source.values import assignments_in, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG471", "average-is-the-model"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
IN_PLACE = ("mul_", "lerp_", "copy_", "add_", "sub_")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for averages that are no copies."""
    return read_file_by_file(subject, _of_file, "averages")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has(*(f"{name}(" for name in IN_PLACE)) or not file.has(*(f"{name}(" for name in WEIGHTS)):
        return
    scopes: dict[int, list[Function]] = {}
    for function, owner in file.functions:
        scopes.setdefault(id(owner) if owner is not None else id(function), []).append(function)
    for functions in scopes.values():
        nodes = [node for function in functions for node in own_nodes(function)]
        if not _writes(nodes):
            continue
        for function in functions:
            for target, value in assignments_in(own_nodes(function)):
                if AVERAGE.search(last_name(target)) and is_the_models(value):
                    yield _finding(file, value, function.name, last_name(target))


def _writes(nodes: Sequence[ast.AST]) -> bool:
    """Whether something is written in place that an average's name, or one of its items, may be."""
    calls = (node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
    return any(call.func.attr in IN_PLACE for call in calls)  # type: ignore[attr-defined]


def _finding(file: File, value: ast.expr, function: str, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() makes `{name}` of the model's own tensors; allowed: copies",
        culprit=file.at(value, function),
        fix="copy the tensors: `p.detach().clone()`, or `copy.deepcopy(model)`",
    )
