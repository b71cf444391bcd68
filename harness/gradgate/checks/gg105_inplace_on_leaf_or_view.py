"""An in-place operation hits a leaf that requires grad, or a view or expanded tensor where autograd forbids it.

## What it detects

`weight.mul_(2)` outside `no_grad`, writes to one of several views of `split` or `unbind`, to a view taken under
`no_grad`, to an expanded tensor.

## Why it matters

PyTorch raises without saying where the view came from.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

The recorder reads PyTorch's own error as it leaves the step, and adds the line that made the view. False-alarm rate: 0.

## Example

Bad:

```python
model.weight.mul_(0.99)                            # a leaf that requires grad
```

Good:

```python
with torch.no_grad():
    model.weight.mul_(0.99)
```

## How to fix

Write out of place; for an initialisation or an update write under `torch.no_grad()`; clone a view before the write.

## Known limits

An error that the step itself catches is not seen. A step that raises turns GG100 red as well.

## Sources

PyTorch notes, "Autograd mechanics", in-place operations; pytorch/pytorch#15803.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG105", "inplace-on-leaf-or-view"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
