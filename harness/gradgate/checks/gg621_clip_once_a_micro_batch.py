"""Gradients are clipped once a micro-batch, and the optimizer steps once in several.

## What it detects

`clip_grad_norm_()` or another clipping in a loop over batches, outside of the branch that steps the optimizer once in
so many of them; and in a loop over the micro-batches of one update.

## Why it matters

What is clipped is a sum that is not complete. The first micro-batch's gradient is cut down again with each that
follows, so an update is made of the last ones for the most part, and depends on their order; the norm in the log is
that of a part. With one micro-batch an update, as in a small run, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Clipping is what is called
`clip_grad_norm_`, `clip_grad_value_`, `clip_grad_norm`, `clip_gradients` or `clip_grads`, by itself or in a function of
the trainer's that always does, however many calls are between. Findings are such calls under no condition, or under
one that only asks a setting (`if config.max_grad_norm > 0`),

* in a loop that runs a backward at each turn, and steps an optimizer only where a condition holds once in so many turns
  (`%`), names accumulation, or counts to a size from nothing, or in a function that is such a turn;
* in a loop over what is called after accumulation or micro-batches, over a window of batches, whatever hands it over,
  or over what another loop of the function runs a backward for, in which no optimizer steps.

Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    (loss_of(batch) / n).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
```

Good:

```python
    if (i + 1) % n == 0:
        clip_grad_norm_(model.parameters(), 1.0)             # of the whole sum
        optimizer.step()
        optimizer.zero_grad()
```

## How to fix

Clip where the optimizer steps, behind the last backward of the update.

## Known limits

Clipping that differs by sample or micro-batch on purpose (differential privacy) is told as well. What clipping makes
of the gradients of one update is GG207's, which runs it.

## Sources

PyTorch, "Automatic Mixed Precision examples": under accumulation gradients are clipped once, in front of the step.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from functools import partial

from gradgate.checks.source.accumulation import methods_of, once_a_turn
from gradgate.checks.source.conditions import at_each_turn
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, File, called_name, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG621", "clip-once-a-micro-batch"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
CLIPS = re.compile(r"(^|_)clip_grad(_norm|_value|ient|s)", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop that clips."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    clips = any(file.has("clip_grad", "clip_") for file in files)
    findings = tuple(_of_all(files, places_in(files))) if clips else ()
    return Outcome(findings, {"clippings": len(findings)}, {"clippings": 0})


def _of_all(files: tuple[File, ...], own: Places) -> Iterator[Finding]:
    clipping = [place for place in own.functions if place.file.has("clip") and any(_clippings((), _always(place)))]
    calls = own.calls_leading_to(clipping, _always)
    for file in (file for file in files if file.has("backward", "step(")):
        methods = methods_of(file, own)
        for call, function, told in once_a_turn(file, partial(_clippings, calls - methods.stepping), methods):
            yield _finding(file, call, function, told)


def _always(place: Place) -> Iterator[ast.AST]:
    return at_each_turn(place.function.body)


def _clippings(calls: Collection[int], nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """The calls that clip, by themselves or as one of these."""
    for node in nodes:
        if isinstance(node, ast.Call) and (id(node) in calls or CLIPS.search(called_name(node))):
            yield node


def _finding(file: File, call: ast.Call, function: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() clips gradients at each turn {told}; allowed: once an update",
        culprit=file.at(call, function),
        fix="clip where the optimizer steps, behind the last backward of the update",
    )
