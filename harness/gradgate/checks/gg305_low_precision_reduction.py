"""A sum, target or probability kept in 16 bits is further from float64 than stated.

## What it detects

A cross-entropy or its sum in bfloat16, returns that are added up in float16, a softmax over heads in the values' own
dtype: everything that an autocast region hands to a formula and the formula does not widen.

## Why it matters

bfloat16 has 8 bits: above 256 a sum of ones stands still. A loss in it is off by up to 0.4 % of itself, the returns of
a long row by more than the differences that the value head is to learn; and the curve looks smooth.

## How it decides

The subject's `loss`, `weights`, `returns` and `value_loss`, as many as it has, get bfloat16 and float16 inputs (the
value loss values in them, and float32 returns): 40 random batches and rows of 64 tokens. The reference computes in
float64 from the very same 16-bit numbers. Statistic: the largest error, as a share of what float32 may be off by. Those
bounds are derived (u = 2**-24), all doubled:

* loss: u (8 L + V + 4 + (N H + 4)(2 L + log V)), N positions with a head, |logits| up to L;
* weights: 6 u m / tau + (H + 6) u, and never below the stated 1e-3, m the largest |v[t]| + lambda |v[t-1]| ahead;
* value loss: (n + 4) u M^2, M the largest |v| + |return|;
* returns: (3 n + 8) u n M, n real tokens of a row, M the largest |r| + 2 |v|.

Where a stage has `precisions`, its own losses are watched in each of them: a loss of torch's (a log-softmax, a squared
or Huber's error) that takes 16-bit numbers, and, outside of modules, a difference of one 16-bit number a position, as
returns and deltas are made of. Allowed: none; a warning for a loss under the CPU's autocast, which leaves narrow what
that of CUDA widens.

False-alarm rate: 0: to widen a 16-bit number is exact, and the bounds are worst cases.

## Example

Bad:

```python
loss = (weight_BSH * F.cross_entropy(logits, labels, reduction="none")).sum() / positions     # in the logits' dtype
```

Good:

```python
loss = (weight_BSH * F.cross_entropy(logits.float(), labels, reduction="none")).sum() / positions
```

## How to fix

Widen to float32 (float64 stays) where the formula begins, and return what it computed in.

## Known limits

Sums that a step takes by itself, and what autograd does with them, are not looked at: GG306 runs steps in 16 bits. An
error below float32's worst case is not seen, so that one 16-bit rounding of a small number may pass.

## Sources

Faults PR-02 and PR-10 of the fault catalogue; Higham 2002, Accuracy and Stability of Numerical Algorithms, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gradgate.checks import cases, oracles, tolerances
from gradgate.checks.formula_calls import Call, present, returns_call, weights_call
from gradgate.checks.formulas import Ledger
from gradgate.checks.half_losses import Narrow, narrow_losses
from gradgate.checks.source.trainer import runs_in_16_bits
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Functions, Stage, Subject

CODE, NAME = "GG305", "low-precision-reduction"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
RANDOM = 40
LONG = 64
SETTINGS = {"discount_lambda": 0.95, "temperature": 0.7}
DECAYS = {"gamma": 0.99, "gae_lambda": 0.95}
FIX = "widen to float32 where the formula begins (float64 stays float64), and answer in that"


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Give the formulas 16-bit inputs."""
    functions = subject.functions
    offered = {"loss": _loss, "weights": _weights, "returns": _returns, "value_loss": _value_loss}
    judges = [judge for name, judge in offered.items() if getattr(functions, name) is not None]
    stages = [stage for stage in subject.stages if stage.precisions]
    if not judges and not stages:
        hints = [Subject.CAPABILITIES[name] for name in ("precisions", *(f"functions.{name}" for name in offered))]
        return Outcome(not_applicable=f"any of these is enough: {'; '.join(hints)}")
    if not runs_in_16_bits(subject):
        return Outcome(not_applicable=f"{subject.name} declares no precision of 16 bits, and its source names none")
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    for case in _cases(functions, context.seed):
        for dtype in tolerances.HALF:
            for judge in judges:
                judge(ledger, functions, case.to(dtype))
    outcome = ledger.outcome(functions_tried=len(judges))
    narrow = [each for stage in stages for each in narrow_losses(stage, context, subject.source)]
    return replace(outcome, findings=(*outcome.findings, *map(_of_step, narrow)))


def _of_step(narrow: Narrow) -> Finding:
    """What a stage takes of 16-bit numbers; a warning where the CPU's autocast is what leaves them so."""
    what = "a difference of values" if narrow.operation == "sub" else f"`{narrow.operation}`"
    beside = ", which CUDA's autocast widens and the CPU's does not" if narrow.is_of_the_cpu else ""
    return Finding(
        CODE,
        NAME,
        f"stage {narrow.stage!r} in {narrow.precision} takes {what} in {str(narrow.dtype).removeprefix('torch.')}"
        f"{beside}; allowed: float32",
        severity="warning" if narrow.is_of_the_cpu else "error",
        culprit=narrow.place,
        fix=FIX,
    )


def _cases(functions: Functions, seed: int) -> Iterator[cases.Case]:
    yield from cases.ragged(seed, RANDOM, gaps=functions.gaps)
    valid_BS = torch.arange(LONG) < torch.tensor([[LONG], [LONG // 2]])
    yield cases.make("long rows", valid_BS, 2, seed)


def _loss(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    label_BSH = case.labels
    positions = int((label_BSH != oracles.IGNORED).any(-1).sum())
    rng = torch.Generator().manual_seed(case.token_BS.numel())
    logits_BSHV = 3 * torch.randn(*label_BSH.shape, case.token_BS.numel(), generator=rng)
    weight_BSH = torch.softmax(torch.randn(label_BSH.shape, generator=rng), -1)
    logits_BSHV = logits_BSHV.to(case.value_BS.dtype)
    arguments = {"logits_BSHV": logits_BSHV, "label_BSH": label_BSH, "weight_BSH": weight_BSH}
    call = Call("loss", present(functions.loss), case.describe(), arguments)
    loss = ledger.run(call, (), FIX)
    if loss is not None:
        expected = oracles.wmtp_loss(logits_BSHV, label_BSH, weight_BSH)
        allowed = tolerances.loss(logits_BSHV.float(), positions)
        ledger.compare(call, loss, expected, allowed, what="loss of 16-bit logits", unit="nats", fix=FIX)


def _weights(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    call = weights_call(functions, case, **SETTINGS)
    weight_BSH = ledger.run(call, case.labels.shape, FIX)
    if weight_BSH is not None:
        expected_BSH = oracles.head_weights(case.value_BS, case.labels, case.valid_BS, **call.options)
        allowed = tolerances.head_weight(case.value_BS, case.valid_BS, case.horizon, **call.options)
        _compare(ledger, call, weight_BSH, expected_BSH, allowed, "head weight of 16-bit values", "b, t, k", None)


def _returns(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    call = returns_call(functions, case, **DECAYS)
    return_BS = ledger.run(call, case.valid_BS.shape, FIX)
    if return_BS is not None:
        expected_BS = oracles.gae_returns(case.reward_BS, case.value_BS, case.valid_BS, **call.options)
        allowed = tolerances.returns(case.reward_BS, case.value_BS, case.valid_BS)
        _compare(ledger, call, return_BS, expected_BS, allowed, "return of 16-bit values", "b, t", case.valid_BS)


def _value_loss(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    """Values as autocast gives them, returns as they are to be: in float32."""
    rng = torch.Generator().manual_seed(case.token_BS.numel())
    return_BS = torch.rand(case.valid_BS.shape, generator=rng)
    arguments = {"value_BS": case.value_BS, "return_BS": return_BS, "valid_BS": case.valid_BS}
    call = Call("value_loss", present(functions.value_loss), case.describe(), arguments)
    loss = ledger.run(call, (), FIX)
    if loss is not None:
        expected = oracles.value_loss(case.value_BS.double(), return_BS.double(), case.valid_BS)
        allowed = tolerances.value_loss(case.value_BS.float(), return_BS, case.valid_BS)
        ledger.compare(call, loss, expected, allowed, what="value loss of 16-bit values", fix=FIX)


def _compare(
    ledger: Ledger,
    call: Call,
    actual: Tensor,
    expected: Tensor,
    allowed: Tensor | float,
    what: str,
    axes: str,
    where: Tensor | None,
) -> None:
    ledger.compare(call, actual, expected, allowed, what=what, axes=axes, where=where, fix=FIX)
