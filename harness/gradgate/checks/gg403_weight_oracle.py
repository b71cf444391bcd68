"""Head weights differ from a slow literal reference.

## What it detects

Any difference, beyond rounding, between the trainer's head weights and the formula written out position by position in
float64: a temperature or lambda that is ignored, a delta that uses the value at padding or across documents, a finite
sentinel that wins against very negative deltas, a clamp, weights in a lower precision than float32. And between their
gradients and those of the reference: a saved tensor overwritten through an alias, a factor that is detached.

## Why it matters

The weights are the method. A wrong one trains, the loss falls, and nothing but a reference says that the run answered
another question.

## How it decides

Statistic: the largest |weight - reference|, without unit, as a share of its bound, over the boundary grid, random
ragged and packed batches, lambda in {0, 0.5, 0.95, 1}, temperature in {0.1, 0.7, 5}, deltas near -50, below -10, of
+-1e4, and float32, float64, bfloat16, float16 values. Bound, per position: 12 u m / tau + 2 (H + 6) u with u the
roundoff of float32 (float64 for float64 values) and m the largest |v| + lambda |v previous| it depends on; at least
1e-3 for bfloat16 and float16 values. Gradients of a random combination of weights are compared in float64 and float32,
with the bound that follows from the weights' own. Both are worst cases, derived in `gradgate.checks.tolerances`: a
stable implementation never crosses them. The answer must be float32, or float64 for float64 values.

A formula may not write into the values that it is given, also not behind `detach`, which shares them: the model's
output is then another for whoever reads it next. At padding alone that is a warning.

Faults that hide one another: where all of the formula's numbers on some more batches are those of the reference with
usual faults in it, up to five at once (`gradgate.checks.usual_faults` lists them), these are told, one alone in the
message, several as a finding each.

## Example

Bad:

```python
delta_BS = value_BS - discount_lambda * functional.pad(value_BS, (1, 0))[:, :-1]   # reads padding and other documents
```

Good:

```python
previous_BS = previous_real(valid_BS, document_BS)          # index of the previous real token, S where there is none
delta_BS = value_BS - discount_lambda * functional.pad(value_BS, (0, 1)).gather(1, previous_BS)
```

## How to fix

Paste the finding's reproduction, compare your delta with `gradgate.checks.oracles.deltas` first, then the softmax.

## Known limits

A function whose weights carry no gradient (weights meant to be detached) is compared on its weights alone, and
`weights_carry_gradient` says so.

## Sources

Faults LW-20, LW-31 and MB-23 of the fault catalogue; Higham 2002, section 3.1, for the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product

import torch
from torch import Tensor

from gradgate.checks import cases, oracles, tolerances
from gradgate.checks.formula_calls import Call, weights_call
from gradgate.checks.formulas import Ledger
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Functions, Stage, Subject

CODE, NAME = "GG403", "weight-oracle"
NEEDS: tuple[str, ...] = ("functions.weights",)
PER_STAGE = False
LAMBDAS = (0.95, 0.0, 0.5, 1.0)
TEMPERATURES = (0.7, 0.1, 5.0)
SUM = 0.1  # of weights that can be divided by it
FIX = "compare delta first (v[t] - lambda * v[previous real token of the document]), then softmax(delta[t+k+1] / tau)"
FIX_GRADIENT = "write nothing that autograd saved, and detach nothing between the values and the weights"


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Compare weights, and their gradients, with the reference."""
    ledger = Ledger(CODE, NAME, context.device, subject.source, keeps=True)
    attached = False
    for case, discount_lambda, temperature in _inputs(subject.functions, context):
        call = weights_call(subject.functions, case, discount_lambda=discount_lambda, temperature=temperature)
        weight_BSH = ledger.run(call, case.labels.shape, FIX)
        if weight_BSH is not None:
            _judge(ledger, call, case, weight_BSH, context.seed)
            attached = attached or weight_BSH.requires_grad
    return ledger.outcome(weights_carry_gradient=attached)


def _inputs(functions: Functions, context: Context) -> Iterator[tuple[cases.Case, float, float]]:
    """Cases with the settings to try them under: every pair of settings meets every kind of case in turn."""
    settings = cycle(product(LAMBDAS, TEMPERATURES))
    for case in cases.every_case(functions, context):
        yield case.tracked(), *next(settings)
    for index, case in enumerate(cases.other_cases(functions, context, cases.random_count(context))):
        yield case.to(cases.DTYPES[1 + index % 3]).tracked(), *next(settings)
    for discount_lambda in LAMBDAS:
        for case in cases.extreme(context.seed, discount_lambda):
            yield case.tracked(), discount_lambda, next(settings)[1]


def _judge(ledger: Ledger, call: Call, case: cases.Case, weight_BSH: Tensor, seed: int) -> None:
    """Hold one batch's weights, their dtype and their gradient against the reference."""
    value_BS = case.value_BS.detach().double().requires_grad_()
    label_BSH, options = case.labels, call.options
    expected_BSH = oracles.head_weights(value_BS, label_BSH, case.valid_BS, **options)
    allowed_BS1 = tolerances.head_weight(case.value_BS, case.valid_BS, case.horizon, **options)
    agree = _agrees(ledger, call, weight_BSH, expected_BSH, allowed_BS1)
    dtype = tolerances.working_dtype(case.value_BS.dtype)
    if weight_BSH.dtype != dtype:
        message = f"head weights of {case.value_BS.dtype} values are {weight_BSH.dtype}, expected {dtype}"
        ledger.note("dtype", message, "take the softmax in at least float32 and keep its dtype", call)
    if agree and weight_BSH.requires_grad and case.value_BS.dtype not in tolerances.HALF:
        direction_BSH = 2 * torch.rand(weight_BSH.shape, generator=torch.Generator().manual_seed(seed)).double() - 1
        expected_BS = torch.zeros_like(value_BS)
        if expected_BSH.requires_grad:
            expected_BS = torch.autograd.grad((direction_BSH * expected_BSH).sum(), value_BS)[0]
        _judge_gradient(ledger, call, case, (direction_BSH * weight_BSH).sum(), expected_BS, float(allowed_BS1.max()))


def _agrees(ledger: Ledger, call: Call, weight_BSH: Tensor, expected_BSH: Tensor, allowed_BS1: Tensor) -> bool:
    """Hold weights against the reference: where their sum is wrong, first what they are of it.

    A wrong sum is GG401's; what is wrong behind it, and would be wrong without it, is another fault.
    """
    valid_BSH = expected_BSH.detach() > 0
    sum_BS1 = (weight_BSH.detach().double() * valid_BSH).sum(-1, keepdim=True)
    summed_BS1 = valid_BSH.any(-1, keepdim=True) & (sum_BS1 > SUM) & ((sum_BS1 - 1).abs() > allowed_BS1)
    if summed_BS1.any() and not ledger.compare(
        call,
        weight_BSH.double() / sum_BS1.clamp(min=SUM),
        expected_BSH,
        2 * allowed_BS1 / SUM,
        what="head weight, divided by its position's sum,",
        axes="b, t, k",
        where=(summed_BS1 & valid_BSH).expand_as(weight_BSH),
        fix=FIX,
    ):
        return False
    return ledger.compare(call, weight_BSH, expected_BSH, allowed_BS1, what="head weight", axes="b, t, k", fix=FIX)


def _judge_gradient(
    ledger: Ledger, call: Call, case: cases.Case, output: Tensor, expected_BS: Tensor, weight_error: float
) -> None:
    """Compare the gradients of one random combination of the weights."""
    actual_BS = ledger.gradient(call, output, case.value_BS, FIX_GRADIENT)
    if actual_BS is None:
        return
    allowed = tolerances.weight_gradient(
        weight_error,
        case.horizon,
        temperature=call.options["temperature"],
        direction=1.0,
        dtype=case.value_BS.dtype,
    )
    ledger.compare(
        call,
        actual_BS,
        expected_BS,
        allowed,
        what="gradient of the weights",
        axes="b, t",
        where=case.valid_BS,
        fix=FIX_GRADIENT,
    )
