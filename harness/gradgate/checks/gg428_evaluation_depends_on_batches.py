"""An evaluation's numbers change with the number of rows that a batch has.

## What it detects

Means of batch means, a last batch that is dropped, rows that are left out where they do not fill a batch, positions or
masks that go wrong where a row is padded to another one's length, statistics of a batch that are used in evaluation.

## Why it matters

Which checkpoint is the best, and when training stops, is decided by a number that nobody can compare with that of
another machine, whose batches are larger.

## How it decides

With every key of `Stage.options` that says how many rows a batch has (`batch_size`, `eval_batch_size`,
`per_device_eval_batch_size`) moved, fresh runs with the same parameters are evaluated. Statistic: the largest relative
change of a number that `Run.evaluate` returns; allowed: 1e-3, which is far above the rounding of other sums in float32.
Numbers that are counts of batches, times or rates of work by their names are left out. Dropout that is on keeps
everything here. Where two seeds give two evaluations, it draws other random numbers, and nothing can be said.

A trainer may look at so many batches and not at so many rows: where its source limits them by their number
(`eval_iters`, `max_eval_batches`), and where it is not known, a finding for a key that is the training's, too, is a
warning.

False-alarm rate: 0 for an evaluation that goes over all held-out rows; an answer that changes with rounding counts as
one of them.

## Example

Bad:

```python
for batch in loader:
    total += loss_of(batch).item()                 # a mean over the batch's tokens
return {"val_loss": total / len(loader)}
```

Good:

```python
for batch in loader:
    part, tokens = loss_sum_of(batch)
    total, count = total + part.item(), count + tokens.item()
return {"val_loss": total / max(count, 1)}
```

## How to fix

Add up sums and counts over all held-out rows and divide once; keep the last, smaller batch; look at what padding does
to a row.

## Known limits

The line is not named; GG425 reads for means of means. An evaluation whose batches are not configured is not looked at.

## Sources

The `loss * batch_size` of torchvision's and timm's meters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from gradgate.checks.evaluations import ALLOWED, Change, evaluated_apart
from gradgate.checks.moved import in_words
from gradgate.checks.raised import reports_raises
from gradgate.checks.source.trainer import files_of
from gradgate.core.finding import Finding, Severity
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject
from gradgate.subjects.settings import is_of_evaluation

CODE, NAME = "GG428", "evaluation-depends-on-batches"
NEEDS: tuple[str, ...] = ("evaluate", "options")
PER_STAGE = True
MOST_FEW = 2  # rows of a batch that need not be fewer
BATCH = re.compile(r"(^|[._])batch(_?size)?$|batch_size|(^|[._])bs$")
LIMIT = re.compile(r"eval_(iters|steps|batches)|max_(eval_|val_)?batches|limit_\w*batches|num_\w*batches")


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Move each size of a batch, and evaluate."""
    moves = list(_moves(stage))
    if not moves:
        return Outcome(not_applicable="no key of `options` says how many rows a batch has, such as `eval_batch_size`")
    otherwise = "with another size of batches the parameters have other names or shapes"
    return evaluated_apart(stage, context, moves, partial(_finding, subject), otherwise)


def _moves(stage: Stage) -> Iterator[dict[str, Any]]:
    """Each size of a batch moved to its other values, and to one row less, which need not divide the rows."""
    for key, values in (stage.options or {}).items():
        if BATCH.search(key.lower()):
            less = [int(values[0]) - 1] if isinstance(values[0], int) and values[0] > MOST_FEW else []
            yield from ({key: value} for value in dict.fromkeys((*values[1:], *less)))


def _severity(subject: Subject, options: Mapping[str, Any]) -> Severity:
    if all(map(is_of_evaluation, options)):
        return "error"
    files = files_of(subject)
    limited = not files or any(LIMIT.search(line) for file in files for line in file.lines)
    return "warning" if limited else "error"


def _finding(subject: Subject, change: Change) -> Finding:
    return Finding(
        CODE,
        NAME,
        f"evaluate() says {change.name} = {change.plain:.6g}, and {change.moved:.6g}{in_words(change.options)}: a "
        f"relative change of {change.distance:.3g}; allowed: {ALLOWED:g}",
        severity=_severity(subject, change.options),
        fix="add up sums and counts over all held-out rows and divide once; keep the last, smaller batch",
        detail={"metric": change.name, "plain": change.plain, "moved": change.moved},
    )
