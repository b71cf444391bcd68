"""One row influences another.

## What it detects

Labels that leak across rows through a flattened shift, a softmax or a statistic over the batch, attention across rows,
rewards that are matched to another row.

## Why it matters

What a row teaches depends on which rows it meets. Micro-batches, accumulation and several processes then train
something else than one large batch.

## How it decides

In float64, for 3 pairs of rows i, j of a batch (`Run.select_rows`): the gradient of each loss term on the pair must be
a combination a g_i + b g_j of those on each row alone, whatever the loss divides by. a and b come from least squares.
Statistic: the norm of what is left. Rows whose gradients leave nothing to combine (all zero) are passed over.

Running statistics of the data (a mean of rewards that each batch moves before it is used) are a design, not a fault:
they are held still. They are the numbers that `losses` moves by its batch, whatever the parameters are.

Tolerance, derived: reordering a sum of n terms, or computing it in other blocks, is a change of each term by at most n
u of itself (u = 2**-53). The condition is measured: the noise is the largest change of the quantity under 3 random
changes of every parameter by 2 u. Allowed: 2 n (noise + u |quantity|), with n the number of elements of the batch's
largest tensor. Dropout keeps everything while the check looks; a loss that draws other random numbers, and differs, is
inconclusive.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
label_BS = token_BS.flatten().roll(-1).view_as(token_BS)                  # the last label is the next row's first token
```

Good:

```python
label_BS = F.pad(token_BS[:, 1:], (0, 1), value=-100)
```

## How to fix

Keep the row's dimension through shifts, softmaxes and statistics.

## Known limits

Batch norm and whitening over the batch are reported; where they are meant, say so under `expected`. An influence that
happens to lie in the plane of the two gradients is not seen.

## Sources

Faults LW-17 and MB-17 of the fault catalogue.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations

from gradgate.checks.invariance import Probe, rows_of
from gradgate.checks.raised import reports_raises
from gradgate.checks.row_coupling import PAIRS, of_pair
from gradgate.checks.running_statistics import without_running_statistics
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Stage, Subject

CODE, NAME = "GG407", "batch-independence"
NEEDS: tuple[str, ...] = ("losses", "rows")
PER_STAGE = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold pairs of rows against each row alone."""
    probe = Probe(stage, context)
    batches = probe.batches(2)
    judge = partial(_judged, probe, batches[0])
    return without_running_statistics(probe.run, batches, context.seed, judge)


def _judged(probe: Probe, batch: Batch) -> Outcome:
    pairs = list(combinations(range(min(rows_of(batch), PAIRS)), 2))
    found = [(pair, distance) for pair in pairs for distance in of_pair(probe, batch, pair)]
    if not found:
        return Outcome(inconclusive="no two rows of the batch have a gradient to combine")
    pair, worst = max(found, key=lambda each: (each[1].is_beyond, each[1].measured / (each[1].allowed or 1.0)))
    measured, allowed = {"rest": worst.measured, "pairs": len(pairs)}, {"rest": worst.allowed}
    if not worst.is_beyond:
        return Outcome(measured=measured, allowed=allowed)
    if probe.draws_beyond_dropout:
        return Outcome(inconclusive="the loss draws random numbers other than dropout, and its values differ")
    finding = Finding(
        code=CODE,
        name=NAME,
        message=f"{worst.quantity} on rows {pair[0]} and {pair[1]} is no combination of those on each row alone: "
        f"{worst.measured:.3g} of {worst.size:.6g} is left, allowed: {worst.allowed:.1e}",
        fix="keep the row's dimension through shifts, softmaxes and statistics; match rewards by row",
        detail={"quantity": worst.quantity, "rows": list(pair), "rest": worst.measured},
    )
    return Outcome((finding,), measured, allowed)
