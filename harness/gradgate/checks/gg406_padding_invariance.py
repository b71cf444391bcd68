"""More padding changes loss, targets or gradients.

## What it detects

A mean over all positions instead of the real ones, a denominator that counts columns, statistics that include padding,
a target that reads the position behind the row.

## Why it matters

The same rows weigh differently, depending on which longer row they happen to share a batch with.

## How it decides

In float64, one batch as it is and with 1 and with 5 more positions of padding (`Run.pad`). Statistic: the distance of
each loss term, and of its gradient, from those of the batch as it is.

Tolerance, derived: reordering a sum of n terms, or computing it in other blocks, is a change of each term by at most n
u of itself (u = 2**-53). The condition is measured: the noise is the largest change of the quantity under 3 random
changes of every parameter by 2 u. Allowed: 2 n (noise + u |quantity|), with n the number of elements of the batch's
largest tensor. Dropout keeps everything while the check looks; a loss that draws other random numbers, and differs, is
inconclusive. The line that is named is the one whose operation gave the loss term: its divisor, mostly.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
loss = ((value_BS - return_BS).square() * valid_BS).mean()                # divides by B * S
```

Good:

```python
loss = ((value_BS - return_BS).square() * valid_BS).sum() / valid_BS.sum()
```

## How to fix

Divide by what counts, and let nothing at padding into a sum, a statistic or a neighbour.

## Known limits

Padding on one side, the adapter's `pad`, with what it puts there.

## Sources

Fault LW-19 of the fault catalogue.
"""

from __future__ import annotations

from gradgate.checks.invariance import Probe
from gradgate.checks.raised import calling, reports_raises
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG406", "padding-invariance"
NEEDS: tuple[str, ...] = ("losses", "pad")
PER_STAGE = True
COUNTS = (1, 5)


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Pad a batch further, and compare."""
    probe = Probe(stage, context)
    (batch,) = probe.batches(1)
    with calling("pad()"):
        padded = [probe.run.pad(batch, count) for count in COUNTS]
    worst = probe.furthest(batch, padded)
    measured, allowed = {"distance": worst.measured}, {"distance": worst.allowed}
    if not worst.is_beyond:
        return Outcome(measured=measured, allowed=allowed)
    if probe.draws_beyond_dropout:
        return Outcome(inconclusive="the loss draws random numbers other than dropout, and its values differ")
    finding = Finding(
        code=CODE,
        name=NAME,
        message=f"{worst.quantity} (size {worst.size:.6g}) changes by {worst.measured:.3g} where the batch has "
        f"{COUNTS[0]} or {COUNTS[1]} more positions of padding; allowed: {worst.allowed:.1e}",
        culprit=probe.made_at(batch, worst.quantity, subject.source),
        fix="divide by the number of real tokens, and keep padding out of sums, statistics and neighbours",
        detail={"quantity": worst.quantity, "distance": worst.measured, "padding": list(COUNTS)},
    )
    return Outcome((finding,), measured, allowed)
