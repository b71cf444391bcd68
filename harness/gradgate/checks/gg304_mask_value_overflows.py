"""A mask constant overflows its dtype, or a computed number does, and the loss is NaN for it.

## What it detects

`-1e10` or `float32`'s minimum as a mask in fp16, a score that overflows in 16 bits, and the softmax over a row that is
masked throughout.

## Why it matters

What is a large number in float32 is -inf in fp16. A row of -inf is NaN after the softmax, and the first batch that has
such a row ends the run.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

As GG301; the code is this one where the first number that was not finite was too large for its dtype, or where PyTorch
refuses a constant for it. False-alarm rate: 0.

## Example

Bad:

```python
score = score.half() + (1 - mask.half()) * -1e10                          # -inf in fp16
```

Good:

```python
score = score.masked_fill(~valid, torch.finfo(score.dtype).min)
```

## How to fix

Use `torch.finfo(dtype).min`, compute this part in float32, and give the row that is masked throughout a rule of its
own.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A row that becomes uniform instead of NaN is GG402's. The
run's own dtype is looked at, and what the step casts to: GG306 has the grid.

## Sources

Fault PR-01 of the fault catalogue.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG304", "mask-value-overflows"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(stage, context).outcome(CODE)
