"""A tensor that backward still needs is overwritten.

## What it detects

An in-place operation (`x[mask] = 0`, `x.mul_()`, `out=`) on the output of a softmax, an activation, a product or any
other operation that saved it for backward.

## Why it matters

PyTorch raises in backward and names the operation that *lost* its tensor, not the line that wrote it; where something
catches the error, or saved-tensor hooks switch the check off, the step goes on without its gradient, or with a wrong
one.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

The recorder notes each saved tensor's version as it is saved and checks it as backward asks for it. The culprit is the
write that first moved the version, the victim the line whose operation saved the tensor. A write to a saved tensor that
no backward uses is no finding. False-alarm rate: 0: a version that moved is a fact, and PyTorch itself refuses such a
backward.

## Example

Bad:

```python
weight_BSH = torch.softmax(score_BSH, dim=-1)
weight_BSH[~valid_BSH] = 0.0                       # softmax saved its output
```

Good:

```python
weight_BSH = torch.softmax(score_BSH.masked_fill(~valid_BSH, -torch.inf), dim=-1)
```

## How to fix

Write to a new tensor: drop the trailing underscore or `out=`, use `torch.where` or `masked_fill`, or clone before the
write.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A step that raises turns GG100 red as well.

## Sources

Fault LW-01 of the fault catalogue; pytorch/pytorch#15803 and #30458; PyTorch notes, "Autograd mechanics".
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG101", "inplace-on-saved-tensor"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
