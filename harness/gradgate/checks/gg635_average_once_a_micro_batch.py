"""An average of the weights moves once a micro-batch, and the optimizer steps once in several.

## What it detects

`ema.update(model)` or another update of averaged weights in a loop over batches, outside of the branch that steps the
optimizer once in so many of them; and in a loop over the micro-batches of one update.

## Why it matters

The weights do not change between two updates, and the average moves towards them all the same: with 8 micro-batches a
decay of 0.999 acts as one of 0.992, so the average is of the last 125 updates where 1,000 were meant, and what is
evaluated and exported is nearly the model itself. In a run with another accumulation the same decay is another one.
With one micro-batch an update, as in a small run, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. An average moves in a call
of `update`, `step` or `update_parameters` of what is named after an average (`ema`, `swa`, `polyak`, `shadow`), in one
that is named `update_ema`, `ema_step`, `soft_update` and the like, in a loop over such a model's parameters that writes
them (`lerp_`, `mul_`), and in a function of the file that always does one of these. Averages of losses, gradients or
times are none. Findings are such calls under no condition

* in a loop that runs a backward at each turn, and steps an optimizer only where a condition holds once in so many turns
  (`%`) or names accumulation, or in a function that is such a turn;
* in a loop over what is called after accumulation or micro-batches, over a window of batches, whatever hands it over,
  or over what another loop of the function runs a backward for, in which no optimizer steps.

Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    (loss_of(batch) / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
    ema.update(model)
```

Good:

```python
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)                                    # in the branch
```

## How to fix

Move the average where the optimizer steps, behind its step.

## Known limits

An average that moves in another file's function under another name is not seen, nor one that moves in front of the
optimizer's step.

## Sources

The examples of diffusers, which step their average where `accelerator.sync_gradients`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import partial

from gradgate.checks.source.accumulation import methods_of, once_a_turn
from gradgate.checks.source.places import Places, places_in
from gradgate.checks.source.trainer import File, called_name, dotted, files_of, nodes_in, read_file_by_file
from gradgate.checks.source.values import always_run
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG635", "average-once-a-micro-batch"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
AVERAGE = re.compile(r"(^|_)(ema|swa|polyak|shadow|averaged?|averager)(_|\d|$)|EMA|Averaged", re.ASCII)
MOVES = re.compile(r"^(update|step|update_parameters|update_model|update_weights|move|__call__)$")
NAMED = re.compile(
    r"^_?(update|step|move|accumulate|apply)_(the_)?(model_)?(ema|swa|polyak|averages?|averaged_\w+|shadow)(_\w+)?$"
    r"|^_?(ema|polyak)_(update|step|accumulate)\w*$|^_?(soft|polyak)_update$|^update_average\w*$"
)
NUMBERS = re.compile(r"loss|metric|grad|norm|score|time|reward|return|meter|acc(uracy)?\b|item|value\b", re.IGNORECASE)
WRITES = ("lerp_", "mul_", "copy_", "add_", "_foreach_lerp_", "_foreach_mul_")
HINTS = ("ema", "EMA", "swa", "polyak", "shadow", "averag", "Averag", "soft_update")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop that moves an average."""
    places = places_in(files_of(subject))
    return read_file_by_file(subject, lambda file: _of_file(file, places), "averages")


def _of_file(file: File, places: Places) -> Iterator[Finding]:
    if file.has(*HINTS) and file.has("backward"):
        own = {function.name for function, _ in file.functions if any(_moves(set(), always_run(function)))}
        for call, function, told in once_a_turn(
            file, partial(_moves, own - {"update", "step"}), methods_of(file, places)
        ):
            yield _finding(file, call, function, told)


def _moves(own: set[str], nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """The calls that move an average, by themselves or by one of these functions of the file."""
    for node in nodes:
        if isinstance(node, ast.For):
            yield from _written(node)
        elif isinstance(node, ast.Call):
            holder, _, last = dotted(node.func).rpartition(".")
            by_holder = MOVES.search(last) and AVERAGE.search(holder.rpartition(".")[2])
            given = " ".join(ast.unparse(argument) for argument in node.args)
            if ((by_holder or NAMED.search(last)) and not NUMBERS.search(f"{holder} {given}")) or dotted(
                node.func
            ).removeprefix("self.") in own:
                yield node


def _written(loop: ast.For) -> Iterator[ast.Call]:
    """The first write of a loop over the parameters of an average."""
    over = {part for node in ast.walk(loop.iter) if (part := dotted(node).removeprefix("self.").partition(".")[0])}
    if any(map(AVERAGE.search, over)) and re.search(r"parameters|params|items|state_dict|buffers", ast.unparse(loop)):
        writes = (node for node in nodes_in(loop.body) if isinstance(node, ast.Call))
        yield from [node for node in writes if called_name(node) in WRITES][:1]


def _finding(file: File, call: ast.Call, function: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() moves an average of the weights at each turn {told}; allowed: once an update",
        culprit=file.at(call, function),
        fix="move the average where the optimizer steps, behind its step",
    )
