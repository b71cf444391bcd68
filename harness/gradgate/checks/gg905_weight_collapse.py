"""The head weights of a trained stage have collapsed onto one head, or sit at uniform.

## What it detects

A temperature that is far too small or too large, a critic that never learnt or is never asked, values of the wrong
scale, weights trained through their own loss until one head has them all.

## Why it matters

At uniform the critic costs time and does nothing; collapsed, the stage trains one head and calls it multi-token
prediction. The loss looks well in both cases.

## How it decides

`Fit.weight_NH`: after a whole fit, the weights at held-out positions at which all H heads have a label, as shares of
their sum. Two statistics over the positions: the mean entropy as a share of log H, and the mean distance of the largest
share from 1/H. Allowed: a mean entropy of at least 0.05 (a share of 0.99 on one of four heads has 0.05), and a mean
distance of at least 1e-3, the size at which the specification calls weights indistinguishable from uniform. Seeds are
tried as in GG902, so that a single odd seed does not decide. A stage that weighs uniformly by configuration has no
critic to judge, and leaves `weight_NH` out.

False-alarm rate: that of the sequential test, 0.05.

## Example

Bad:

```python
weight_BSH = torch.softmax(delta_BSH / 1e-4, -1)            # one head has it all, at noise's bidding
```

Good:

```python
weight_BSH = torch.softmax(delta_BSH / 0.7, -1)
```

## How to fix

Look at the values first (GG506), then at temperature and reward scale, then at what trains the weights (GG203, GG505).

## Known limits

It asks whether weights differ, not whether they are right. The bars are the specification's, not tuned to a trainer.

## Sources

Shannon 1948; the trainer's own specification of what counts as no signal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count

import torch
from torch import Tensor

from gradgate.checks.fits import fit
from gradgate.checks.raised import reports_raises
from gradgate.checks.sequential import BY_PROFILE
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG905", "weight-collapse"
NEEDS: tuple[str, ...] = ("fit",)
PER_STAGE = True
GROUP = "fits"  # whole fits, made once in a process
OBJECTIVE = "tokens"
ENTROPY = 0.05  # of log H, at least
POSITIONS = 48  # that reports draw
DISTANCE = 1e-3  # of the largest weight from 1/H, at least
ALLOWED = {"entropy_ratio": ENTROPY, "distance_from_uniform": DISTANCE}


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Look at the weights of fit after fit until the case is clear."""
    weight_NH = fit(subject, stage, context.seed, context).weight_NH
    if weight_NH is None or weight_NH.shape[1] < 2:
        return Outcome(not_applicable="fit() gives no `weight_NH`, the weights of two heads or more")
    measured: dict[str, dict[int, float]] = {name: {} for name in ALLOWED}
    faults: dict[int, str] = {}

    def succeeds(seed: int) -> bool:
        weight_NH = fit(subject, stage, seed, context).weight_NH
        if weight_NH is None:
            return True  # `fit_of` leaves out what a critic that has learnt nothing says
        entropy, distance = spread(weight_NH)
        measured["entropy_ratio"][seed], measured["distance_from_uniform"][seed] = entropy, distance
        if not entropy >= ENTROPY:
            faults[seed] = f"collapsed, entropy {entropy:.3g} of log H (at least {ENTROPY})"
        elif not distance >= DISTANCE:
            faults[seed] = f"uniform, the largest weight is {distance:.2g} from 1/H (at least {DISTANCE:g})"
        return seed not in faults

    decision, tried = BY_PROFILE[context.profile].run(count(context.seed), succeeds)
    told = f"{len(faults)} of {len(tried)} seeds: " + "; ".join(f"seed {seed}: {text}" for seed, text in faults.items())
    findings = (_finding(told),) if decision == "bad" else ()
    reason = f"undecided after {told}" if decision == "undecided" else ""
    return Outcome(findings, measured, ALLOWED, inconclusive=reason, series={"trained_weight": _drawn(weight_NH)})


def _drawn(weight_NH: Tensor) -> Mapping[str, list[tuple[float, float]]]:
    """The first seed's weights at the first held-out positions, a line a head."""
    rows = enumerate(weight_NH[:POSITIONS].detach().double().T.tolist())
    return {f"head {head}": [(float(at), weight) for at, weight in enumerate(row, 1)] for head, row in rows}


def spread(weight_NH: Tensor) -> tuple[float, float]:
    """Mean entropy as a share of log H, and mean distance of the largest weight from 1/H; NaN without a position.

    Args:
        weight_NH: Float[N, H], H of two or more.
    """
    weight_NH, heads = weight_NH.detach().double(), weight_NH.shape[1]
    weight_NH = weight_NH / weight_NH.sum(-1, keepdim=True)  # some sum to the number of heads
    entropy_N = -torch.xlogy(weight_NH, weight_NH).sum(-1) / math.log(heads)
    return float(entropy_N.mean()), float((weight_NH.amax(-1) - 1 / heads).mean())


def _finding(told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"head weights say nothing on {told}",
        fix="look at the values first (GG506), then at temperature and reward scale, then at what trains the weights",
    )
