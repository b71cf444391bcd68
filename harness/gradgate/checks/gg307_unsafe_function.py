"""sqrt, norm, log, acos, atan2 or a division is taken where its slope is infinite.

## What it detects

`sqrt(0)`, the norm of a zero vector, `acos(1)`, `1/x` behind a `where`: a finite value with an infinite derivative.

## Why it matters

The first exact zero (a padded row, two equal vectors, an empty mask) turns every gradient into NaN.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

As GG302, where the node belongs to one of these functions. False-alarm rate: 0: the gradient was not finite.

## Example

Bad:

```python
distance = (left - right).square().sum(-1).sqrt()                         # NaN where left == right
```

Good:

```python
distance = ((left - right).square().sum(-1) + 1e-12).sqrt()
```

## How to fix

Add a floor inside the function, or mask its input.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A point of infinite slope that the batches do not reach is
not seen.

## Sources

pytorch/pytorch#2421, and #2775 for the subgradient that `norm` has since then and `sqrt` has not.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG307", "unsafe-function"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
