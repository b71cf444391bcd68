"""A peak of memory is above its stored figure.

## What it detects

A graph or a buffer that lives longer than it must, a copy at the step's widest moment, `retain_graph=True`, and growth
that is freed again before the peak, which a peak alone is blind to.

## Why it matters

The peak decides which batch fits; what dies before it costs bandwidth and pages.

## How it decides

As GG702: one step of a fresh run, seed 0. Statistic: `live_peak_bytes`, the most that operations of the step hold at
once, and `total_bytes`, all that they allocate, freed or not. Allowed: the stored figures, at tolerance 0. Less is a
note. The line is the one whose share of the peak, or of the total, grew most. False-alarm rate: 0 in the steps
measured: the numbers are bit-equal between processes.

## Example

Bad:

```python
loss.backward(retain_graph=True)      # all that was saved is still there while the optimizer steps
```

Good:

```python
loss.backward()
```

## How to fix

Let tensors go before the next wide moment; `gradgate baseline update --reason TEXT` accepts a growth.

## Known limits

What operations allocate inside themselves, and the allocator's own rounding, are not counted; neither are the
interpreter's objects. Without a stored baseline the check does not apply.

## Sources

Faults ME-04 and ME-05 of the fault catalogue.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.stored import judged
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG801", "peak-grew"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
SOLO = True  # a base is compared with once, for all that ask, and takes time
METRICS = ("live_peak_bytes", "total_bytes")


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold the step's memory against the stored figures."""
    return judged(subject, stage, context, METRICS, (CODE, NAME))
