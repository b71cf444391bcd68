"""How often the program logs, evaluates or saves changes what it trains.

## What it detects

An evaluation that draws from the training's generator, leaves the model in eval mode, moves statistics or takes the
training's batches; an average that is swapped in and not out; a schedule or a patience that is moved by the interval of
something else; gradients that are cleared or left where a checkpoint is written.

## Why it matters

Two runs that were watched differently cannot be compared, and a fault that depends on it goes away as soon as somebody
looks closer.

## How it decides

The program is launched with every further value of every key of `Program.watching`, one at a time. Statistic: the
number of the first update behind which a parameter is another one than with the configured settings; allowed: none.
Where a key is of evaluations, and the first difference is a later stage's first update, the later stage may start from
another best checkpoint: that passes.

False-alarm rate: 0 for what is only to watch.

## Example

Bad:

```python
val_loss = evaluate(model)          # calls model.eval(), and nobody calls model.train()
```

Good:

```python
with in_eval_mode(model), torch.random.fork_rng():
    val_loss = evaluate(model)
```

## How to fix

Let an evaluation put back the mode, the generators and the weights, and draw its rows from a loader of its own.

## Known limits

A schedule that follows the evaluations (a plateau) is no watching: leave the key of evaluations out. The line is not
named; GG606 and GG601 look at one evaluation.

## Sources

PyTorch, Autograd mechanics, on evaluation mode; faults MB-17 and MB-19 of the fault catalogue.
"""

from __future__ import annotations

import re
from typing import Any

from gradgate.checks.launches import first_parting
from gradgate.checks.moved import in_words
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Turns, Whole, equal_runs, moves_of, parted, program_of, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG675", "watching-changes-training"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
CHOOSES = re.compile(r"eval|val(id|$|_|\.)|dev_|test")
FIX = "let what watches put back the mode, the generators and the weights, and take no batch of the training"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Watch more often, and less."""
    moves = list(moves_of(program_of(subject).watching))
    if not moves:
        return Outcome(not_applicable="the program has no `watching=`: how often it logs, evaluates and saves")
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    first, turns = runs[0], Turns(context)
    findings: dict[str, Finding] = {}
    for settings in turns.of(moves):
        (key,) = settings
        other = whole(subject, context, settings)
        if other.launched.end == "slow":
            continue
        if other.launched.end != "ended":
            text = f"the program {other.launched.in_words}{in_words(settings)}, and comes to its end without"
            findings.setdefault(key, _finding(text, key, victim=other.launched.place))
            continue
        at = first_parting(first.updates, other.updates)
        if at is not None and not _may_choose(key, at, first):
            far = parted(first.updates, other.updates, at)
            text = f"update {at + 1} of {len(first.updates)} is another one{in_words(settings)}, which is only to watch"
            findings.setdefault(key, _finding(f"{text}: {far}; allowed: none", key))
    return Outcome(tuple(findings.values()), {"launches": turns.made})


def _may_choose(key: str, at: int, first: Whole) -> bool:
    """Whether a later stage begins otherwise because evaluations chose another best one for it."""
    begins = at > 0 and first.updates[at].optimizer not in {one.optimizer for one in first.updates[:at]}
    return begins and CHOOSES.search(key.lower()) is not None


def _finding(message: str, key: str, **places: Any) -> Finding:
    return Finding(CODE, NAME, message, fix=FIX, detail={"key": key}, **places)
