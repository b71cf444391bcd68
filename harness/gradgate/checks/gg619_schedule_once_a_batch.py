"""The schedule moves once a micro-batch, and the optimizer once in several.

## What it detects

`scheduler.step()` in a loop over batches, outside of the branch that steps the optimizer once in so many of them; and
in a loop over the micro-batches of one update.

## Why it matters

The rate warms up and decays as many times too fast as there are micro-batches in an update: with 8 of them training is
over after an eighth of its steps, at a rate of 0 from there on, and the loss just looks flat. With 1, as in a small
run, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A schedule is what is called
`...sched...` and steps without an argument. Findings are its steps under no condition, or under one that only asks a
setting (`if scheduler is not None`),

* in a loop that runs a backward at each turn, and steps an optimizer only where a condition holds once in so many turns
  (`%`) or names accumulation, or in a function that is such a turn;
* in a loop over what is called after accumulation or micro-batches, over a window of batches, whatever hands it over,
  or over what another loop of the function runs a backward for, in which no optimizer steps.

So is a rate (`group["lr"] = ...`) that is made of a count which is raised where a backward is, in a method or a loop
that some function runs several times for one step of the optimizer, and nowhere else; none where that count is divided,
or what is asked was made with the number of batches of an update.

Where a schedule in the same file is given a length that is made of a `len` and divided by nothing, it is taken for one
that is meant to be counted in batches. Statistic: such steps; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    (loss_of(batch) / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
    scheduler.step()
```

Good:

```python
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()                                     # in the branch
```

## How to fix

Step the schedule where the optimizer steps, and give it its length in updates.

## Known limits

Steps of a schedule in another function, and of one under another name, are not seen. Which rate each update really has
is GG607's, which runs it.

## Sources

PyTorch, "How to adjust learning rate": the schedule is stepped after the optimizer's update.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.accumulation import methods_of, once_a_turn, scheduled
from gradgate.checks.source.counted_turns import rates_by_turns
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import File, called_name, calls_in, dotted, files_of, read_file_by_file
from gradgate.checks.source.values import Names
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG619", "schedule-once-a-batch"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MADE = re.compile(r"sched|LR$")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop with a schedule's step."""
    own = places_in(files_of(subject))
    by_turns = [*rates_by_turns(own)]
    return read_file_by_file(subject, lambda file: (*_of_file(file, own), *_by_turns(file, by_turns)), "steps")


def _by_turns(file: File, found: list[tuple[Place, ast.expr, str]]) -> Iterator[Finding]:
    for place, value, count in found:
        if place.file is file:
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{place.name}() sets the rate by `{count}`, which is raised at each backward, and the "
                "optimizer steps once for several of them; allowed: by a count of updates",
                culprit=file.at(value, place.name),
                fix="count updates where the optimizer steps, or divide the count by the batches of an update",
            )


def _of_file(file: File, own: Places) -> Iterator[Finding]:
    if (
        file.has("sched")
        and (found := list(once_a_turn(file, scheduled, methods_of(file, own))))
        and not _is_counted_in_batches(file)
    ):
        yield from (_finding(file, *one) for one in found)


def _is_counted_in_batches(file: File) -> bool:
    """Whether a schedule's length is made of a `len` that nothing divides."""
    for function, _ in file.functions:
        names = Names(function)
        for call in (call for call in calls_in(function) if MADE.search(called_name(call))):
            parts = [part for given in (*call.args, *call.keywords) for part in names.parts(given)]
            counts = any(isinstance(part, ast.Call) and dotted(part.func) == "len" for part in parts)
            if counts and not any(isinstance(part, ast.FloorDiv | ast.Div) for part in parts):
                return True
    return False


def _finding(file: File, call: ast.Call, function: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() steps the schedule at each turn {told}; allowed: once an update",
        culprit=file.at(call, function),
        fix="step the schedule where the optimizer steps, and give it its length in updates",
    )
