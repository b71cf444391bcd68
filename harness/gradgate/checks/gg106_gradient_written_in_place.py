"""A hook or a custom backward changes a gradient that it was lent.

## What it detects

`grad.mul_()` or `grad.clamp_()` inside `register_hook`, or inside the backward of a `torch.autograd.Function`.

## Why it matters

Autograd shares gradient tensors between branches: the other branch gets the edited numbers, and which one that is
depends on the order of the graph.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

The recorder sees the writes of operations inside backward and compares their memory with that of the gradients which
the running hook or Function was given. False-alarm rate: 0: the memory is the same or it is not.

## Example

Bad:

```python
hidden_BSD.register_hook(lambda grad: grad.clamp_(-1, 1))
```

Good:

```python
hidden_BSD.register_hook(lambda grad: grad.clamp(-1, 1))
```

## How to fix

Return a new tensor: `return grad * scale`.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A `.grad` that is edited between backward and step is the
update's own business and not reported.

## Sources

Fault GF-10 of the fault catalogue; PyTorch documentation, `torch.autograd.Function.backward` and
`Tensor.register_hook`: "must not modify its argument".
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG106", "gradient-written-in-place"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
