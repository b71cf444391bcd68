"""Head weights do not sum to 1 on positions with a valid head.

## What it detects

At a position with at least one valid head the weights must be a probability distribution over the heads. A clamp or a
mask behind the softmax, a softmax over another axis, weights kept in half precision or a normalisation over all heads
instead of the valid ones break the sum.

## Why it matters

The sum is the position's share of the loss. Where it is not 1 the effective learning rate differs from token to token
and moves with the padding; a run that is compared with uniform weighting then compares two learning rates.

## How it decides

Statistic: the largest |sum over heads - 1|, without unit, over all positions with a valid head of the boundary grid and
of random ragged, partly packed batches, for float32, float64, bfloat16 and float16 values. Threshold: 1e-6 for
float32 and float64 values, 1e-3 for bfloat16 and float16. With H <= 8 heads a softmax in float32 is off by at most
(H + 6) * 2**-24 = 8.3e-7; weights kept in bfloat16 are off by up to 2**-9 = 2e-3. False-alarm rate: 0, the bound is a
worst case. A non-finite sum fails.

## Example

Bad:

```python
weight_BSH = torch.softmax(delta_BSH / tau, dim=-1)
weight_BSH = weight_BSH * valid_BSH                      # the mass of the invalid heads is gone
```

Good:

```python
weight_BSH = torch.softmax((delta_BSH / tau).masked_fill(~valid_BSH, -torch.inf), dim=-1)
```

## How to fix

Mask before the softmax, not behind it; take the softmax over the head axis; compute it in at least float32.

## Known limits

A clamp to a floor below 1e-6 / H passes here; weight-outside (GG402) finds it where a head is not valid.

## Sources

Faults LW-02 and LW-17 of the fault catalogue; Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
"""

from __future__ import annotations

from itertools import chain

from torch import Tensor, ones

from gradgate.checks import cases, tolerances
from gradgate.checks.formula_calls import Call, weights_call
from gradgate.checks.formulas import Ledger
from gradgate.checks.oracles import IGNORED
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG401", "weight-sum"
NEEDS: tuple[str, ...] = ("functions.weights",)
PER_STAGE = False
FIX = "mask before the softmax over the heads, in at least float32: softmax(score.masked_fill(~valid, -inf), dim=-1)"


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Sum the weights of every position with a valid head."""
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    functions = subject.functions
    other = cases.other_cases(functions, context, cases.random_count(context) // 4)
    converted = (case.to(dtype) for case in other for dtype in cases.DTYPES[1:])
    for case in chain(cases.every_case(functions, context), converted):
        call = weights_call(functions, case, discount_lambda=0.95, temperature=0.7)
        weight_BSH = ledger.run(call, case.labels.shape, FIX)
        if weight_BSH is not None:
            _judge(ledger, call, case, weight_BSH)
    return ledger.outcome("weight_sum_error")


def _judge(ledger: Ledger, call: Call, case: cases.Case, weight_BSH: Tensor) -> None:
    """Hold the sums of one batch against 1."""
    total_BS = weight_BSH.double().sum(-1)
    ledger.compare(
        call,
        total_BS,
        ones(total_BS.shape).double(),
        tolerances.weight_sum(case.value_BS.dtype),
        what="sum of the head weights",
        axes="b, t",
        where=(case.labels != IGNORED).any(-1),
        fix=FIX,
    )
