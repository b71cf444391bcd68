"""Reordering the batch changes more than the order.

## What it detects

A loss that weighs rows by their place in the batch, a state carried from one row to the next, rewards or labels that
are matched to rows by index after a shuffle.

## Why it matters

What a row teaches depends on where in the batch it stands.

## How it decides

In float64, one batch as it is, in reverse order and rotated by one row (`Run.select_rows`). Statistic: the distance of
each loss term, and of its gradient, from those of the batch as it is.

Tolerance, derived: reordering a sum of n terms, or computing it in other blocks, is a change of each term by at most n
u of itself (u = 2**-53). The condition is measured: the noise is the largest change of the quantity under 3 random
changes of every parameter by 2 u. Allowed: 2 n (noise + u |quantity|), with n the number of elements of the batch's
largest tensor. Dropout keeps everything while the check looks; a loss that draws other random numbers, and differs, is
inconclusive.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
loss = (row_loss_B * torch.linspace(1, 2, len(row_loss_B))).mean()
```

Good:

```python
loss = row_loss_B.mean()
```

## How to fix

Give each row what it needs with the row itself, and reduce over rows without an index.

## Known limits

Batches of one row say nothing. Influence of one row on another that is the same in every order is GG407's.

## Sources

Fault DC-05 of the fault catalogue.
"""

from __future__ import annotations

from gradgate.checks.invariance import Probe, rows_of
from gradgate.checks.raised import calling, reports_raises
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG408", "permutation-equivariance"
NEEDS: tuple[str, ...] = ("losses", "rows")
PER_STAGE = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Reorder a batch, and compare."""
    probe = Probe(stage, context)
    (batch,) = probe.batches(1)
    count = rows_of(batch)
    if count < 2:
        return Outcome(inconclusive=f"the batch has {count} row(s): there is nothing to reorder")
    order = list(range(count))
    with calling("select_rows()"):
        others = [probe.run.select_rows(batch, rows) for rows in (order[::-1], [*order[1:], 0])]
    worst = probe.furthest(batch, others)
    measured, allowed = {"distance": worst.measured}, {"distance": worst.allowed}
    if not worst.is_beyond:
        return Outcome(measured=measured, allowed=allowed)
    if probe.draws_beyond_dropout:
        return Outcome(inconclusive="the loss draws random numbers other than dropout, and its values differ")
    finding = Finding(
        code=CODE,
        name=NAME,
        message=f"{worst.quantity} (size {worst.size:.6g}) changes by {worst.measured:.3g} where the {count} rows of "
        f"the batch are reordered; allowed: {worst.allowed:.1e}",
        fix="look for an index over rows in the loss, and for rewards or labels that are matched by place",
        detail={"quantity": worst.quantity, "distance": worst.measured, "rows": count},
    )
    return Outcome((finding,), measured, allowed)
