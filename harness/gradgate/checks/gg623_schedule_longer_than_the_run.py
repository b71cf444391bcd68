"""A schedule's length is counted in batches, and the schedule moves once in several of them.

## What it detects

`epochs * len(loader)`, or `max_steps * accumulation`, as the length of a schedule, in a trainer whose optimizer steps
once in so many batches.

## Why it matters

With four batches an update the run ends at a quarter of the schedule: a cosine that is to end near zero is stopped
where the rate is still high, and the warm-up of a share of the run takes four times as long. With one batch an update,
as in a small run, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A length is a product of
epochs and of `len(...)` or a number of batches, or of what is called after a number of steps or updates and what is
called after accumulation, in which nothing is divided, and which reaches a call that is named after a schedule, a rate
or a warm-up: as it stands, by a name or an attribute, as an argument of a function of the trainer's that calls one, or
as what a function gives back. It is a finding

* in a trainer with a loop that runs a backward at each turn, and steps an optimizer only where a condition holds once
  in so many turns (`%`) or names accumulation, or one over what a function gives that is named after accumulation, or
  over the batches of a window;
* where no such loop steps its schedule at each turn, which GG619 has;
* not in a file with a loop of its own that takes a step behind each backward: the stage that accumulates is another.

Statistic: such lengths; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
total = config.epochs * len(loader)
scheduler = LambdaLR(optimizer, lambda step: cosine(step, total))
for i, batch in enumerate(loader):
    (loss_of(batch) / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        scheduler.step()
```

Good:

```python
total = config.epochs * math.ceil(len(loader) / n)           # updates
```

## How to fix

Give the schedule its length in updates: the batches of an epoch divided by those of an update, times the epochs.

## Known limits

Lengths that pass through more than one function, and data that give whole updates, `len` and all, beside a loop that
counts batches, are not told apart. Which rate each update really has is GG607's, which runs it.

## Sources

The `num_update_steps_per_epoch` of transformers' examples: the batches of an epoch, divided by those of an update.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.accumulation import (
    accumulations,
    is_backward,
    methods_of,
    once_a_turn,
    parts_of_updates,
    scheduled,
    steps_in,
)
from gradgate.checks.source.places import places_in
from gradgate.checks.source.schedule_lengths import (
    counts_batches,
    products_of_epochs,
    products_of_updates,
    reaches_a_schedule,
)
from gradgate.checks.source.trainer import NONE, File, called_name, calls_in, dotted, files_of
from gradgate.checks.source.values import Names, own_nodes
from gradgate.checks.source.windows import Windows
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG623", "schedule-longer-than-the-run"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what each schedule's length is made of."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(_of_all(files)) if _accumulates(files) else ()
    return Outcome(findings, {"lengths": len(findings)}, {"lengths": 0})


def _accumulates(files: tuple[File, ...]) -> bool:
    """Whether a loop steps its optimizer once in several batches, and none its schedule at each."""
    found = False
    for file in (file for file in files if file.has("backward", "step(")):
        methods = methods_of(file, places_in(files))
        if next(once_a_turn(file, scheduled, methods), None):
            return False
        found = found or bool(methods.windows)
        nodes = ((function, own_nodes(function)) for function, _ in file.functions)
        found = found or any(
            next(accumulations(own, Names(function), methods), None) is not None for function, own in nodes
        )
    return found or any(map(_groups, (node for file in files if file.has("accum") for node in file.nodes)))


def _groups(node: ast.AST) -> bool:
    """Whether a loop is over what a function gives that is named after accumulation: the batches of one update each."""
    return isinstance(node, ast.For) and any(is_of_accumulation(dotted(call.func)) for call in calls_in(node.iter))


def _of_all(files: tuple[File, ...]) -> Iterator[Finding]:
    own = places_in(files)
    windows = Windows(own)
    known = {file for file in files if file.has("epoch", "accum") and not _steps_each_batch(file)}
    for place in (place for place in own.functions if place.file in known):
        names, nodes = place.names, place.nodes
        for product in (*products_of_epochs(nodes, names, _counts_batches), *products_of_updates(nodes, names)):
            counted = (part for part in names.parts(product) if called_name(part) == "len")
            of_windows = (windows.cut(given, place) for call in counted for given in call.args)  # type: ignore[attr-defined]
            if not any(of_windows) and reaches_a_schedule(product, place.function, place.file):
                yield _finding(place.file, product, place.name)


def _steps_each_batch(file: File) -> bool:
    """Whether a file has a loop of its own that accumulates nothing: one stage of a trainer whose other one does."""
    if not file.has("backward(") or file.has("accum"):
        return False
    methods = methods_of(file)
    functions = [(function, own_nodes(function)) for function, _ in file.functions]
    steps = any(any(steps_in(nodes)) and any(map(is_backward, nodes)) for _, nodes in functions)
    return steps and all(
        next(accumulations(nodes, Names(function), methods), None) is None and not parts_of_updates(nodes)
        for function, nodes in functions
    )


def _counts_batches(node: ast.expr, names: Names) -> bool:
    held = names.held(node)
    parts = list(names.parts(held))
    divided = any(isinstance(part, ast.BinOp) and not isinstance(part.op, ast.Mult) for part in parts)
    if divided or is_of_accumulation(" ".join(ast.unparse(part) for part in (node, held))):
        return False
    return counts_batches(node, names)


def _finding(file: File, product: ast.BinOp, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() counts a schedule's length in batches, `{ast.unparse(product)}`, and the optimizer steps "
            "once in several; allowed: updates"
        ),
        culprit=file.at(product, function),
        fix="divide the batches of an epoch by those of an update, rounded as the loop rounds them",
    )
