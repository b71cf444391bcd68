"""NaN or Inf appears in the forward pass of the step.

## What it detects

log(0), 0/0, the mean of nothing, exp of a large number, on the way into a loss that backward starts from; 0 log 0, and
whatever else makes a NaN out of numbers, where a metric of the step is NaN.

## Why it matters

NaN spreads into the loss and from there into every gradient; where it shows is far from where it was born.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

Where a loss that backward starts from is not finite, the recorder names the first operation whose result was not finite
though its operands were: op, line, and the operands' ranges. A NaN that a `GradScaler` skips is a note; an infinite
mask that a softmax takes away is none. Where a metric is NaN in every step, one more is looked at: an operation that
made a NaN of operands without one is a finding, with its line. A NaN that stands for a number that is not there is made
by no operation. False-alarm rate: 0: the loss is finite or it is not.

## Example

Bad:

```python
loss = (ce_BS * valid_BS).sum() / valid_BS.sum()                          # 0/0 on a row of padding
```

Good:

```python
loss = (ce_BS * valid_BS).sum() / valid_BS.sum().clamp(min=1)
```

## How to fix

Keep the operands inside the function's domain, or treat the empty or masked case on its own.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. A NaN that reaches no loss is not reported. In results
above 4096 elements only operations that make such numbers are looked at.

## Sources

Faults MB-20 and PR-16 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject
from gradgate.watch import places

CODE, NAME = "GG301", "nonfinite-forward"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording; where a metric was always NaN, look for the operation that made it."""
    recording = recorded(subject, stage, context)
    outcome = recording.outcome(CODE)
    if not recording.nan_metrics or outcome.findings or outcome.inconclusive or outcome.not_applicable:
        return outcome
    return Outcome(tuple(_of_metrics(stage, context, recording.nan_metrics)), outcome.measured, outcome.allowed)


def _of_metrics(stage: Stage, context: Context, names: Sequence[str]) -> Iterator[Finding]:
    """One finding where an operation of a step makes a NaN."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    (batch,) = islice(run.batches(), 1)
    with calling("step 1"), _Births() as births:
        run.step(batch)
    if births.first is not None:
        operation, place = births.first
        yield Finding(
            code=CODE,
            name=NAME,
            message=f"the metric {', '.join(names)} is NaN in every step: {operation} made a NaN out of none",
            culprit=places.location(place),
            fix="treat 0 on its own: torch.xlogy(p, p) is 0 where p is, p * p.log() is NaN",
        )


class _Births(TorchDispatchMode):
    """Sees the first operation that makes a NaN of operands that hold none.

    Attributes:
        first: its name and the user's line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: tuple[str, places.Place | None] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it made."""
        before = self.first is None and not any(map(_has_nan, tree_leaves((args, kwargs))))
        out = func(*args, **(kwargs or {}))
        if before and not _UNWRITTEN.intersection(str(func).split(".")) and any(map(_has_nan, tree_leaves(out))):
            self.first = str(func).removeprefix("aten."), places.here()
        return out


_UNWRITTEN = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}  # whatever the memory held


def _has_nan(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(torch.isnan(leaf).any())
