"""NaN or Inf appears in the forward pass of the step.

## What it detects

log(0), 0/0, the mean of nothing, exp of a large number, on the way into a loss that backward starts from.

## Why it matters

NaN spreads into the loss and from there into every gradient; where it shows is far from where it was born.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

Where a loss that backward starts from is not finite, the recorder names the first operation whose result was not finite
though its operands were: op, line, and the operands' ranges. A NaN that a `GradScaler` skips is a note; an infinite
mask that a softmax takes away is none. False-alarm rate: 0: the loss is finite or it is not.

## Example

Bad:

```python
loss = (ce_BS * valid_BS).sum() / valid_BS.sum()                          # 0/0 on a row of padding
```

Good:

```python
loss = (ce_BS * valid_BS).sum() / valid_BS.sum().clamp(min=1)
```

## How to fix

Keep the operands inside the function's domain, or treat the empty or masked case on its own.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A NaN that reaches no loss is not reported. In results
above 4096 elements only operations that make such numbers are looked at.

## Sources

Faults MB-20 and PR-16 of the fault catalogue.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG301", "nonfinite-forward"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(stage, context).outcome(CODE)
