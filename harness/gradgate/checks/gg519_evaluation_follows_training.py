"""An evaluation's numbers change with a setting that is the training's alone.

## What it detects

Label smoothing in the held-out loss; weights of the evaluation that are blended in, warmed up or uniform at first, as
those of the training are; any number of an evaluation that follows the rate, the decay or the micro-batches of an
update.

## Why it matters

The best checkpoint and the end of training are decided by numbers that were not measured alike: an evaluation of the
first steps is of another loss than one of the last, and two runs with other settings cannot be compared by it.

## How it decides

With every key of `Stage.options` that says what training alone uses moved (label smoothing, dropout, warm-up, ramps,
blends, micro-batches of an update, weight decay, learning rate), fresh runs with the same parameters are evaluated
before any step. Statistic: the largest relative change of a number that `Run.evaluate` returns; allowed: 1e-3. Numbers
that are counts of batches, times or rates of work by their names are left out, dropout that is on keeps everything.
Where two seeds give two evaluations, it draws other random numbers, and nothing can be said.

A finding is a warning: some report the loss of the training on held-out rows, and choose nothing by it.

False-alarm rate: 0 for an evaluation that takes its parameters and the held-out rows alone.

## Example

Bad:

```python
loss = F.cross_entropy(logits, labels, label_smoothing=cfg.label_smoothing)      # in evaluate(), too
```

Good:

```python
loss = F.cross_entropy(logits, labels)
```

## How to fix

Let the evaluation take nothing from the settings of the training: the plain loss, the weights as they are in the end.

## Known limits

A setting that changes which parameters there are, or what they begin with, is not compared. A temperature, a
coefficient or a horizon is part of what is measured, and may change it. The line is not named.

## Sources

Szegedy et al., Rethinking the Inception Architecture for Computer Vision, section 7 (label smoothing regularises the
training); two faults of a trainer that was reviewed for the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gradgate.checks.evaluations import ALLOWED, Change, evaluated_apart
from gradgate.checks.moved import in_words
from gradgate.checks.raised import reports_raises
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG519", "evaluation-follows-training"
NEEDS: tuple[str, ...] = ("evaluate", "options")
PER_STAGE = True
TRAINING = re.compile(
    r"label_?smooth|(^|[._])smoothing$|drop_?out|warm_?up|(^|[._])(ramp|blend|uniform)(_|$)|weight_decay"
    r"|(^|[._])(lr|learning_rate)([._]|$)"
)


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Move each setting of the training, and evaluate."""
    moves = list(_moves(stage))
    if not moves:
        return Outcome(not_applicable="no key of `options` is the training's alone, such as `label_smoothing`")
    otherwise = "with other settings the parameters have other names or shapes, or nothing starts"
    outcome = evaluated_apart(stage, context, moves, _finding, otherwise)
    first: dict[str, Finding] = {}
    for finding in outcome.findings:
        first.setdefault(finding.detail["key"], finding)
    return replace(outcome, findings=tuple(first.values()))


def _moves(stage: Stage) -> Iterator[dict[str, Any]]:
    for key, values in (stage.options or {}).items():
        if TRAINING.search(key.lower()) or is_of_accumulation(key):
            yield from ({key: value} for value in values[1:])


def _finding(change: Change) -> Finding:
    text = f"evaluate() says {change.name} = {change.plain:.6g}, and {change.moved:.6g}{in_words(change.options)}"
    return Finding(
        CODE,
        NAME,
        f"{text}, which is the training's alone; allowed: a relative change of {ALLOWED:g}",
        severity="warning",
        fix="let the evaluation take its parameters and the held-out rows, and no setting of the training",
        detail={"metric": change.name, "plain": change.plain, "moved": change.moved, "key": next(iter(change.options))},
    )
