"""A parameter that a pending backward still needs is written, by an optimizer or otherwise.

## What it detects

`optimizer.step()` between a forward and its backward: two losses over one forward with an update in between, a GAN
whose generator loss runs through a discriminator that has just moved, a hand-written update on the same graph.

## Why it matters

The pending backward would mix the old activations with the new parameters. PyTorch raises; caught, or hidden by hooks,
it is a gradient of no function at all.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

As GG101; the code is this one where the write came from inside `torch.optim` (fused and foreach included) or looks like
an update by hand: an add, lerp or copy to a leaf that has a gradient. The culprit is the update's line. False-alarm
rate: 0, as for GG101.

## Example

Bad:

```python
first_loss.backward(retain_graph=True)
optimizer.step()                                   # moves the weights that second_loss still needs
second_loss.backward()
```

Good:

```python
(first_loss + second_loss).backward()
optimizer.step()
```

## How to fix

Run every backward that needs the old parameters before the step, or run the forward again, or detach what should not
train.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little.

## Sources

Fault GF-25 of the fault catalogue; pytorch/pytorch#15803.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG102", "parameter-changed-before-backward"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
