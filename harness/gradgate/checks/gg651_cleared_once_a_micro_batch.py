"""Gradients are cleared once a micro-batch, and the optimizer steps once in several.

## What it detects

`zero_grad()` in a loop over batches, outside of the branch that steps the optimizer once in so many of them; and in a
loop over the micro-batches of one update.

## Why it matters

Each micro-batch throws away the gradients of those in front of it: an update is made of its last one alone, divided by
their number. With 8 micro-batches seven eighths of the data train nothing, at an eighth of the gradient, and the loss
falls all the same, only slower. With one micro-batch an update, as in a small run, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Clearing is `zero_grad()` of
an optimizer or a model, by itself or in a function of the trainer's that always does, however many calls are between.
Findings are such calls under no condition, or under one that only asks a setting,

* in a loop that runs a backward at each turn, and steps an optimizer only where a condition holds once in so many turns
  (`%`), names accumulation, or counts to a size from nothing, or in a function that is such a turn;
* in a loop over what is called after accumulation or micro-batches, over a window of batches, whatever hands it to
  them, or over what another loop of the function runs a backward for, in which no optimizer steps.

Not so where the same optimizer steps at each turn, nor where the function reads a `.grad`, or calls what is named after
gradients: those of each micro-batch may be kept elsewhere. Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for batch in window:
    optimizer.zero_grad()
    (loss_of(batch) / len(window)).backward()
optimizer.step()
```

Good:

```python
optimizer.zero_grad()                                        # once, in front of the window
for batch in window:
    (loss_of(batch) / len(window)).backward()
optimizer.step()
```

## How to fix

Clear gradients once an update: in front of its first backward, or behind the step.

## Known limits

Clearing by hand (`parameter.grad = None`) is not looked at. What is left over from an earlier update is GG206's, which
runs it.

## Sources

PyTorch, "Automatic Mixed Precision examples": under accumulation `zero_grad` stands beside the step.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from functools import partial

from gradgate.checks.source.accumulation import methods_of, once_a_turn, steps_in
from gradgate.checks.source.conditions import at_each_turn
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG651", "cleared-once-a-micro-batch"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
CLEARS = "zero_grad"
KEEPS = re.compile(r"(?<!zero_)(?<!no_)(?<!clip_)(?<!enable_)grad(s|ients?)?(?!_norm|_clip|_scaler|_enabled|_value)")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop that clears gradients."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    clears = any(file.has(CLEARS) for file in files)
    findings = tuple(_of_all(files, places_in(files))) if clears else ()
    return Outcome(findings, {"clearings": len(findings)}, {"clearings": 0})


def _of_all(files: tuple[File, ...], own: Places) -> Iterator[Finding]:
    clearing = [place for place in own.functions if place.file.has(CLEARS) and any(_clearings((), _always(place)))]
    calls = own.calls_leading_to(clearing, _always)
    for file in (file for file in files if file.has("backward", "step(")):
        methods = methods_of(file, own)
        keeping = {place.name for place in own.functions if place.file is file and _keeps(place)}
        found = list(once_a_turn(file, partial(_clearings, calls - methods.stepping), methods))
        steps = {_of(call) for call, _, _ in once_a_turn(file, partial(steps_in, methods=methods), methods)}
        for call, function, told in found:
            if _of(call) not in steps and function not in keeping:
                yield _finding(file, call, function, told)


def _always(place: Place) -> Iterator[ast.AST]:
    return at_each_turn(place.function.body)


def _of(call: ast.Call) -> str:
    return dotted(call.func).rpartition(".")[0]


def _clearings(calls: Collection[int], nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """The calls that clear gradients, by themselves or as one of these."""
    for node in nodes:
        if isinstance(node, ast.Call) and (id(node) in calls or called_name(node) == CLEARS):
            yield node


def _keeps(place: Place) -> bool:
    """Whether a function may keep the gradients of each micro-batch: it reads them, or calls what is named so."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "grad")
        or (isinstance(node, ast.Call) and called_name(node) != CLEARS and KEEPS.search(called_name(node)) is not None)
        for node in place.nodes
    )


def _finding(file: File, call: ast.Call, function: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() clears gradients at each turn {told}; allowed: once an update",
        culprit=file.at(call, function),
        fix="clear them once an update: in front of its first backward, or behind the step",
    )
