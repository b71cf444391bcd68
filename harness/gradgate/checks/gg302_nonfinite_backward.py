"""The loss is finite, a gradient is not.

## What it detects

exp, a product or a quotient whose value `torch.where` or a mask takes away, and whose derivative it does not: 0 * inf.

## Why it matters

The loss says that all is well; one step later every parameter is NaN.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

Where all losses are finite and a gradient is not, the recorder names the forward line of the first backward node whose
result was not finite. At an infinite slope (sqrt, norm, log, division) the code is GG307. False-alarm rate: 0.

## Example

Bad:

```python
safe = torch.where(score < 80, score.exp(), 0.0)                          # backward: 0 * exp(score) = 0 * inf
```

Good:

```python
safe = torch.where(score < 80, score.clamp(max=80).exp(), 0.0)
```

## How to fix

Clamp or mask the *input* of the operation, not its output.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A NaN that a `GradScaler` skips is a note.

## Sources

Fault PR-02 of the fault catalogue; pytorch/pytorch#4132 and #52248.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG302", "nonfinite-backward"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
