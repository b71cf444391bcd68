"""More padding changes loss, targets or gradients.

## What it detects

A mean over all positions instead of the real ones, a denominator that counts columns, statistics that include padding,
a target that reads the position behind the row.

## Why it matters

The same rows weigh differently, depending on which longer row they happen to share a batch with.

## How it decides

In float64, one batch as it is and with 1 and with 5 more positions of padding (`Run.pad`). Statistic: the distance of
each loss term, and of its gradient, from those of the batch as it is.

The same for the metrics of one whole step, of fresh runs, that are no whole numbers; allowed: 1e-6 of each. A metric
that two runs on the batch as it is give otherwise is left out, and all are where the step draws random numbers.

Tolerance, derived: reordering a sum of n terms, or computing it in other blocks, is a change of each term by at most n
u of itself (u = 2**-53). The condition is measured: the noise is the largest change of the quantity under 3 random
changes of every parameter by 2 u. Allowed: 2 n (noise + u |quantity|), with n the number of elements of the batch's
largest tensor. Dropout keeps everything while the check looks; a loss that draws other random numbers, and differs, is
inconclusive. The line that is named is the one whose operation gave the loss term: its divisor, mostly.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
loss = ((value_BS - return_BS).square() * valid_BS).mean()                # divides by B * S
```

Good:

```python
loss = ((value_BS - return_BS).square() * valid_BS).sum() / valid_BS.sum()
```

## How to fix

Divide by what counts, and let nothing at padding into a sum, a statistic or a neighbour.

## Known limits

Padding on one side, the adapter's `pad`, with what it puts there.

## Sources

Fault LW-19 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gradgate.checks.count_lines import line_of_term
from gradgate.checks.invariance import Probe
from gradgate.checks.measures import fractional
from gradgate.checks.raised import calling, reports_raises
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.generators import are_same, states
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG406", "padding-invariance"
NEEDS: tuple[str, ...] = ("losses", "pad")
PER_STAGE = True
COUNTS = (1, 5)
OF_METRICS = 1e-6


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Pad a batch further, and compare."""
    probe = Probe(stage, context)
    (batch,) = probe.batches(1)
    with calling("pad()"):
        padded = [probe.run.pad(batch, count) for count in COUNTS]
    worst = probe.furthest(batch, padded)
    measured, allowed = {"distance": worst.measured}, {"distance": worst.allowed}
    if not worst.is_beyond:
        share, told = _metrics(stage, context)
        measured, allowed = {**measured, "metrics_ratio": share}, {**allowed, "metrics_ratio": OF_METRICS}
        return Outcome((told,) if told else (), measured, allowed)
    if probe.draws_beyond_dropout:
        return Outcome(inconclusive="the loss draws random numbers other than dropout, and its values differ")
    finding = Finding(
        code=CODE,
        name=NAME,
        message=f"{worst.quantity} (size {worst.size:.6g}) changes by {worst.measured:.3g} where the batch has "
        f"{COUNTS[0]} or {COUNTS[1]} more positions of padding; allowed: {worst.allowed:.1e}",
        culprit=line_of_term(probe.run, batch, probe.seed, worst.term, subject.source),
        fix="divide by the number of real tokens, and keep padding out of sums, statistics and neighbours",
        detail={"quantity": worst.quantity, "distance": worst.measured, "padding": list(COUNTS)},
    )
    return Outcome((finding,), measured, allowed)


def _metrics(stage: Stage, context: Context) -> tuple[float, Finding | None]:
    """How far the metrics of a step are from those of a step on the same rows with more padding."""
    plain, again, padded = (_step(stage, context, count) for count in (0, 0, COUNTS[-1]))
    if plain is None or again is None or padded is None:
        return 0.0, None
    names = [name for name in plain if plain[name] == again.get(name) and name in padded]
    share, name = max(
        ((abs(padded[name] - plain[name]) / max(abs(plain[name]), OF_METRICS), name) for name in names),
        default=(0.0, ""),
    )
    if share <= OF_METRICS:
        return share, None
    message = (
        f"the metric {name} is {plain[name]:.9g}, and {padded[name]:.9g} where the batch has {COUNTS[-1]} more "
        f"positions of padding; allowed: {OF_METRICS:g} of it"
    )
    return share, Finding(CODE, NAME, message, fix="count and sum over real tokens in what is reported, too")


def _step(stage: Stage, context: Context, count: int) -> dict[str, float] | None:
    """The metrics of a fresh run's first step, but for whole numbers; None where it draws random numbers."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    batch = next(iter(run.batches()))
    batch = run.pad(batch, count) if count else batch
    before = states()
    with calling("step()"):
        metrics: Mapping[str, Any] = run.step(batch) or {}
    if not are_same(before, states()):
        return None
    return fractional(metrics)
