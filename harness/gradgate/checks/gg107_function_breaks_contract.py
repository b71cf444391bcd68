"""A custom autograd.Function keeps tensors on `ctx`, or changes inputs without `mark_dirty`.

## What it detects

Tensors kept as `ctx.x` instead of `ctx.save_for_backward(x)` and written before backward; inputs written in forward
without `ctx.mark_dirty`.

## Why it matters

What is kept on `ctx` has no version check, and leaks memory; an unannounced write is invisible to everyone else who
saved the input.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

The recorder wraps `Function.apply`: it compares the versions of the inputs around forward, and follows writes to what
the context holds. Keeping alone is no finding, a write to it before backward is. False-alarm rate: 0.

## Example

Bad:

```python
class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x                                  # a later x.mul_() goes unnoticed
        return x * x
```

Good:

```python
class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x
```

## How to fix

Use `ctx.save_for_backward`, `ctx.mark_dirty`, and return new tensors from forward and backward.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A backward that is wrong in its numbers is GG205's.

## Sources

Fault GF-11 of the fault catalogue; PyTorch notes, "Extending PyTorch".
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG107", "function-breaks-contract"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
