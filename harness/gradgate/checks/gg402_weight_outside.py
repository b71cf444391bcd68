"""An invalid head, a padded position or a row without valid heads has a weight other than 0.

## What it detects

Weight where there is nothing to predict: a clamp to a floor behind the softmax, uniform weights at a position without a
valid head, validity taken from head 0 for all heads, NaN from a softmax over nothing but masked scores, a mask by
multiplication that lets a NaN at padding through. And gradient from there: to values at padding, or to any value of
a row that has nothing to predict.

## Why it matters

The weight outside trains on padding as soon as the loss mask changes, distorts every metric over weights (the entropy
first), and a NaN there poisons the whole step.

## How it decides

Statistic: the largest |weight| without unit at heads whose label is -100, and the largest absolute gradient of a random
combination of the weights (factors in [-1, 1]) at values of padding and of rows without a valid head, over the boundary
grid and random batches, with finite garbage and with NaN at padding, for float32, bfloat16 and float16 values.
Threshold: exactly 0, and finite everywhere else. No rounding turns an exact 0 into anything else: the false-alarm rate
is 0. What NaN at padding alone shows is a warning: a mask that is multiplied in holds as long as padding has numbers.

## Example

Bad:

```python
weight_BSH = torch.softmax(score_BSH.masked_fill(~valid_BSH, -1e10), dim=-1)   # 1/H each where no head is valid
```

Good:

```python
some_BS1 = valid_BSH.any(-1, keepdim=True)
score_BSH = score_BSH.masked_fill(~valid_BSH & some_BS1, -torch.inf)
weight_BSH = torch.softmax(score_BSH, dim=-1).masked_fill(~valid_BSH, 0.0)
```

## How to fix

Mask with -inf before the softmax, give rows without a valid head finite scores, and select exact zeros behind it
(out of place). Select values at padding away with `where` or `masked_fill` before any arithmetic.

## Known limits

A function whose weights carry no gradient is judged on its weights alone.

## Sources

Faults LW-02, LW-04, MB-11 and PR-01 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gradgate.checks import cases
from gradgate.checks.formula_calls import Call, weights_call
from gradgate.checks.formulas import Ledger
from gradgate.checks.oracles import IGNORED
from gradgate.core.verdict import Outcome, Series
from gradgate.subjects.contract import Context, Functions, Stage, Subject

CODE, NAME = "GG402", "weight-outside"
NEEDS: tuple[str, ...] = ("functions.weights",)
PER_STAGE = False
FIX = "mask with -inf before the softmax, and select exact zeros behind it: softmax(score).masked_fill(~valid, 0.0)"
GRADIENT = "gradient of the weights with respect to the value"
FIX_GRADIENT = "select padded values away before any arithmetic: value.masked_fill(~valid, 0.0)"


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Look at every weight that must be 0, and at the gradient that comes from it."""
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    pictured: dict[str, tuple[cases.Case, Tensor]] = {}
    for case in _cases(subject.functions, context):
        call = weights_call(subject.functions, case, discount_lambda=0.95, temperature=0.7)
        weight_BSH = ledger.run(call, case.labels.shape, FIX)
        if weight_BSH is not None:
            _judge_weights(ledger, call, case, weight_BSH)
            _judge_gradient(ledger, call, case, weight_BSH, context.seed)
            if case.name in (cases.TOGETHER, cases.PACKED):
                pictured[case.name] = case, weight_BSH  # the last of a name is the longest
    return replace(ledger.outcome("weight_outside"), series=_series(pictured, gaps=subject.functions.gaps))


def _series(pictured: Mapping[str, tuple[cases.Case, Tensor]], *, gaps: bool) -> Series:
    """The weights of each kind of row, a line a head, and beside them what each place is: see `label_state`."""
    weights: dict[str, list[tuple[float, float]]] = {}
    states: dict[str, list[tuple[float, float]]] = {}
    for name, (case, weight_BSH) in pictured.items():
        kinds = list(cases.patterns(case.valid_BS.shape[1], gaps=gaps)) if name == cases.TOGETHER else [name]
        for row, kind in enumerate(kinds):
            for head in range(case.horizon):
                line = f"{kind}, head {head}"
                weights[line] = _points(weight_BSH[row, :, head])
                states[line] = _points(label_state(case)[row, :, head])
    return {"head_weight": weights, "head_label": states}


def label_state(case: cases.Case) -> Tensor:
    """Long[B, S, H]: 1 where the head has something to predict, 0 where it has not, -1 at padding."""
    return (case.labels != IGNORED).long().masked_fill(~case.valid_BS[..., None], -1)


def _points(number_S: Tensor) -> list[tuple[float, float]]:
    return [(float(at), number) for at, number in enumerate(number_S.detach().double().tolist())]


def _cases(functions: Functions, context: Context) -> Iterator[cases.Case]:
    """Each batch with finite garbage at padding and with NaN, then the random ones in half precision."""
    for case in cases.every_case(functions, context):
        yield case.tracked()
        yield case.with_padding(float("nan")).tracked()
    for case in cases.other_cases(functions, context, cases.random_count(context) // 4):
        yield case.to(torch.bfloat16).tracked()
        yield case.to(torch.float16).tracked()


def _judge_weights(ledger: Ledger, call: Call, case: cases.Case, weight_BSH: Tensor) -> None:
    """Invalid heads weigh exactly 0, the others something finite."""
    invalid_BSH = case.labels == IGNORED
    zero_BSH = torch.zeros(weight_BSH.shape)
    ledger.compare(
        call,
        weight_BSH,
        zero_BSH,
        0.0,
        what="weight of the invalid head",
        axes="b, t, k",
        where=invalid_BSH,
        fix=FIX,
        apart=f", {case.value_BS.dtype}, {'NaN' if case.value_BS.isnan().any() else 'numbers'} at padding",
    )
    ledger.finite(
        call, weight_BSH, what="weight of the valid head", axes="b, t, k", where=~invalid_BSH, fix=FIX_GRADIENT
    )


def _judge_gradient(ledger: Ledger, call: Call, case: cases.Case, weight_BSH: Tensor, seed: int) -> None:
    """No gradient at padding and in rows without a valid head; a finite one everywhere."""
    if not weight_BSH.requires_grad:
        return
    direction_BSH = 2 * torch.rand(weight_BSH.shape, generator=torch.Generator().manual_seed(seed)) - 1
    gradient_BS = ledger.gradient(call, (direction_BSH * weight_BSH).sum(), case.value_BS, FIX_GRADIENT)
    if gradient_BS is None:
        return
    silent_BS = ~case.valid_BS | (case.labels == IGNORED).flatten(1).all(1, keepdim=True)
    if ledger.finite(call, gradient_BS, what=GRADIENT, axes="b, t", fix=FIX_GRADIENT):
        zero_BS = torch.zeros(gradient_BS.shape)
        ledger.compare(call, gradient_BS, zero_BS, 0.0, what=GRADIENT, axes="b, t", where=silent_BS, fix=FIX_GRADIENT)
