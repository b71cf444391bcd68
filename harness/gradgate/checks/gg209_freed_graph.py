"""Backward runs a second time through a graph that the first one freed.

## What it detects

A state carried from step to step without `detach()`, a loss that is walked twice, a cached tensor with a history.

## Why it matters

PyTorch raises in the second step and names neither the line that let the old graph live on nor the first backward.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

The recorder catches PyTorch's error inside the engine, finds the youngest node of the freed graph that the new one
hangs on, and names the line that carried it over (else the second backward) and the first backward. False-alarm rate:
0.

## Example

Bad:

```python
state = model.cell(x, state)                       # the last step's graph hangs on it
loss(state).backward()
```

Good:

```python
state = model.cell(x, state.detach())
```

## How to fix

Detach what is carried from step to step, or compute it anew; sum the losses and walk the graph once.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. With `retain_graph=True` nothing raises, and the graph
grows: GG210.

## Sources

PyTorch documentation, `torch.autograd.backward`, `retain_graph`; pytorch/pytorch#15803.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG209", "freed-graph"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
