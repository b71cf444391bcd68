"""Values flow from a parameter to the loss, but gradients do not flow back.

## What it detects

`.item()`, `torch.tensor(t)`, argmax, round, a comparison, a trip through numpy or `no_grad` between a parameter and the
loss.

## Why it matters

The loss looks right, and part of it trains nothing.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

The recorder follows values that lost their history by their storage. An error: a parameter that is handed over or
updated gets no gradient, or exactly zero behind round, floor or sign, because of it; or the loss has no graph. A
warning: a value that passed `torch.tensor` or `autograd.grad` meets the loss while the parameter still gets some
gradient. A note: `detach` and `no_grad` before a parameter that nothing updates. A module of which no optimizer holds a
part is taken for frozen in eval mode, and where `Stage.edges` are declared and none names it. False-alarm rate: 0 for
the loss without a graph and for exact zeros; for the rest, a cut must meet the graph again behind the parameter's first
use.

## Example

Bad:

```python
loss = cross_entropy(logits_BSV, label_BS) * value_BS.mean().item()      # the value head trains nothing
```

Good:

```python
loss = cross_entropy(logits_BSV, label_BS) * value_BS.mean()
```

## How to fix

Keep the operation differentiable from the named line to the loss. What is meant as a constant says `detach()`.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A number that passes through Python is followed by lines,
not by value. A dead parameter turns GG201 red as well: it says which, this one says why.

## Sources

Faults GF-04, GF-05 and GF-20 of the fault catalogue.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG202", "graph-cut"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
