"""A saved tensor is written through an alias that does not move its version: a wrong gradient, no error.

## What it detects

Writes through `.data`, or through another alias with a version of its own, to a tensor that backward reads later.

## Why it matters

PyTorch's check looks at versions, and `.data` has its own. Backward reads the overwritten numbers and says nothing.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

The recorder takes a checksum of what is saved before the first write that hits its storage, and compares as backward
asks for it; a write that puts the same numbers back is no fault. False-alarm rate: 0 but for a collision of two 32-bit
checksums, 2e-10.

## Example

Bad:

```python
weight_BSH = torch.softmax(score_BSH, dim=-1)
weight_BSH.data[~valid_BSH] = 0.0                  # silent
```

Good:

```python
weight_BSH = torch.softmax(score_BSH.masked_fill(~valid_BSH, -torch.inf), dim=-1)
```

## How to fix

Write to a new tensor, or after backward; never through `.data`.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. Whether the gradient differs by much is GG205's to measure.

## Sources

Fault GF-01 of the fault catalogue; PyTorch notes, "Autograd mechanics".
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG103", "data-write"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
