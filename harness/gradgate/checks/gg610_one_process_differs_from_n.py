"""Two processes do not step with the gradients that one process has on the same global batch.

## What it detects

A loss divided by the process's own count and averaged, where rows differ in length; gradients averaged that should be
summed, or the other way; a module outside the wrapper; rows that two processes both have, or none; clipping by a norm
that is the process's own.

## Why it matters

The run that was tuned on one machine becomes another on two, with another learning rate in effect and another weight
for every row. Nothing fails; it only learns worse.

## How it decides

One process takes a step of the stage, in float64, on the first batch of its run. Then two processes, for each way that
the stage declares, take a step on the first batch of theirs. Statistic: at `optimizer.step()`, over all parameters, the
largest difference between the gradient of two processes and that of one, as a share of the largest gradient of one.
Allowed: 1e-6. In float64 another order of sums costs 1e-13; counts that differ cost percents. Where `samples` names
them, the rows of both processes are also counted: each of the global batch in exactly one. Allowed: 0 misplaced.

The same in float32, where the run has `losses` and `select_rows`. Statistic: the norm of the difference over all
parameters, as a share of what rounding can do. That is derived, not tuned: with R rows, u = 2^-24, gamma = R u / (1 - R
u), g_r the gradient of row r's own loss in float64 and e_r what it is off by in float32, element by element,

    D = gamma sum_r |g_r| + (1 + gamma) sum_r e_r,    allowed = 4 c ||D||:

a sum of R terms in any order is off by gamma times the sum of their absolute values, on top of what each term is off by
itself, which is its condition; two ways may err to two sides (2), and clipping's factor c <= 1 is off by as much again
(2). Allowed: 1.

A first step that does not draw the same rows, or has dropout, cannot be compared: inconclusive where the runs of one
process disagree among themselves. False-alarm rate: 0 for a deterministic step; in
float32, where a row's own rounding in another order of sums is not beyond what was measured of it.

## Example

Bad:

```python
loss = token_loss.sum() / mask.sum()                          # this rank's own count; DDP then averages the ranks
```

Good:

```python
count = mask.sum()
dist.all_reduce(count)
loss = world * token_loss.sum() / count                       # DDP divides by world
```

## How to fix

Divide each loss term by its count over all processes and undo the wrapper's mean; put every trained module inside the
wrapper; shard the rows by rank.

## Known limits

Where a module's constants depend on the dtype, as the default eps of `nn.RMSNorm` does, e_r holds that too, and the
float32 bound is wider than rounding is: for the bundled trainer by some four orders of magnitude.
Two processes, one step, on the CPU, over gloo. A stage whose optimizer steps do not go through `torch.optim` is not
seen.

## Sources

Faults DI-01 to DI-04 of the fault catalogue; torch.nn.parallel.DistributedDataParallel, "gradients are averaged".
Higham 2002, Accuracy and Stability of Numerical Algorithms, equation 4.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.rank_rounding import allowed, norm_apart
from gradgate.checks.ranks import WORLD, first_cause, together, told
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.updates import gradients_at_updates
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG610", "one-process-differs-from-n"
NEEDS: tuple[str, ...] = ("distributed",)
PER_STAGE = True
ALLOWED = 1e-6
FIX = "divide each loss term by its count over all processes, undo the wrapper's mean, wrap every trained module"


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """A step on one process, and on two each way."""
    if context.device != "cpu":
        return Outcome(not_applicable="processes are forked, and a fork has no GPU: run it with --device cpu")
    alone, again = (step_of(stage.start, context.seed) for _ in range(2))
    apart = distance(alone.gradients, again.gradients)
    if apart[0] > ALLOWED:
        return Outcome(inconclusive=f"two runs of one process differ by {apart[0]:.2g} at {apart[1]} (GG601)")
    rounded, bound = (
        step_of(stage.start, context.seed, torch.float32),
        allowed(stage.start, context.seed, alone.gradients),
    )
    findings, measured = [], dict[str, float]({"misplaced_rows": 0})
    for way, start in (stage.distributed or {}).items():
        ranks = together(partial(_both, start, context.seed), context.folder / way)
        if told(ranks):
            findings.append(_finding(f"{way}: {first_cause(ranks) or told(ranks)}"))
            continue
        share, name = distance(alone.gradients, ranks[0].value[0].gradients)
        measured[f"{way}_to_one_process_ratio"] = share
        if not share <= ALLOWED:
            text = (
                f"{way}: the gradient of {name} differs by {share:.3g} of the largest between 1 and {WORLD} processes"
            )
            findings.append(_finding(f"{text}; allowed {ALLOWED:g}"))
        if bound:
            part = norm_apart(rounded.gradients, ranks[0].value[1].gradients) / bound
            measured[f"{way}_float32_share_of_rounding"] = part
            if not part <= 1:
                text = f"{way}: in float32 the gradients of 1 and {WORLD} processes are {part:.3g} times as far apart"
                findings.append(_finding(f"{text} as rounding can make them ({bound:.2g}); allowed: 1"))
        misplaced = _misplaced(alone.samples, [each.value[0].samples for each in ranks])
        measured["misplaced_rows"] += misplaced
        if misplaced:
            findings.append(_finding(f"{way}: {misplaced} rows of the global batch are in no process or in several"))
    limits = {"misplaced_rows": 0, "gradient_ratio": ALLOWED} | ({"float32_share_of_rounding": 1.0} if bound else {})
    return Outcome(tuple(findings), measured, limits)


class Step:
    """What one process had at its first update.

    Args:
        gradients: by parameter name, whole, as float64 arrays.
        samples: what it trained on, where the run names its samples.
    """

    def __init__(self, gradients: dict[str, Any], samples: list[Hashable]) -> None:
        self.gradients, self.samples = gradients, samples


def _both(start: Callable[..., Run], seed: int, _rank: int) -> tuple[Step, Step]:
    """A first step in float64, and one in float32."""
    return step_of(start, seed), step_of(start, seed, torch.float32)


def step_of(start: Callable[..., Run], seed: int, dtype: torch.dtype = torch.float64) -> Step:
    """Start a run and take its first step."""
    with calling("start()"):
        run = start(seed, dtype=dtype, device="cpu")
    batch = next(iter(run.batches()))
    names = named_parameters(run)
    with calling("step 1"), gradients_at_updates(names) as updates:
        run.step(batch)
    gradients = {
        names[parameter]: _whole(gradient).double().numpy()
        for update in updates[:1]
        for parameter, gradient in update.gradients.items()
        if gradient is not None
    }
    samples = list(run.samples(batch)) if "samples" in declared(run) else []
    return Step(gradients, samples)


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over the processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, str]:
    """The largest difference of any gradient as a share of the largest gradient, and where it is."""
    largest = max((float(abs(value).max()) for value in one.values() if value.size), default=0.0)
    missing = next((name for name in one if name not in other and abs(one[name]).max() > 0), None)
    if missing is not None or not largest:
        return (float("inf"), missing) if missing else (0.0, "")
    return max((float(abs(one[name] - other[name]).max()) / largest, name) for name in one if name in other)


def _misplaced(whole: list[Hashable], parts: list[list[Hashable]]) -> int:
    expected, found = Counter(whole), Counter(sample for part in parts for sample in part)
    return sum(((expected - found) + (found - expected)).values())


def _finding(message: str) -> Finding:
    return Finding(CODE, NAME, message, fix=FIX)
