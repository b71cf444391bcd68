"""Returns differ from a slow literal reference, at the ends of rows too.

## What it detects

Value targets that are not the GAE returns of the row's real tokens: bootstrapped from values at padding, from the last
value or past the row's end, a reward one step early, a gap that ends the recursion, documents that run into each other,
advantage instead of return, a recursion in bfloat16, a target that is still on the graph.

## Why it matters

The value head learns whatever it is given. A target that reads padding makes its loss depend on the batch it happens to
lie in; one that is on the graph lets the value head lower its loss by moving the target.

## How it decides

Statistic: the largest |return - reference| in reward units at real tokens, over the boundary grid and random ragged and
packed batches, gamma in {0, 0.5, 0.99, 1}, lambda in {0, 0.95, 1}, with finite garbage and with NaN at padding, for
float32, float64, bfloat16 and float16 values and rewards. Threshold: 2 (3 n + 8) u n M with n the row's real tokens, M
the largest |r| + 2 |v| and u the roundoff of float32 (float64 for float64); a worst case, so that the false-alarm rate
is 0. Returns must be at least float32, and detached.

## Example

Bad:

```python
for t in reversed(range(S)):
    next_value = value_BS[:, t + 1] if t + 1 < S else 0.0       # padding's value after the last real token
```

Good:

```python
next_BS = next_real(valid_BS, document_BS)                      # S where no real token follows
td_error_BS = reward_BS + gamma * functional.pad(value_BS, (0, 1)).gather(1, next_BS) - value_BS
```

## How to fix

Select values and rewards at padding away first, step from real token to real token, start from 0 after the last.

## Known limits

What stands at padding in the answer is not judged. Lambda and gamma outside [0, 1] are not tried.

## Sources

Schulman et al. 2016, arXiv:1506.02438, equation 16; faults LW-22, LW-23, LW-25, LW-26 and MB-22 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, cycle, product

from torch import Tensor

from gradgate.checks import cases, oracles, tolerances
from gradgate.checks.formulas import Call, Ledger, random_cases, returns_call
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG501", "return-oracle"
NEEDS: tuple[str, ...] = ("functions.returns",)
PER_STAGE = False
GAMMAS = (0.99, 0.0, 0.5, 1.0)
LAMBDAS = (0.95, 0.0, 1.0)
FIX = "scan each row's (document's) real tokens in reverse order in at least float32, with 0 after the last one"


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Compare returns with the reference under every pair of discounts."""
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    for case, gamma, gae_lambda in _inputs(context):
        call = returns_call(subject.functions, case, gamma=gamma, gae_lambda=gae_lambda)
        return_BS = ledger.run(call, case.valid_BS.shape, FIX)
        if return_BS is not None:
            _judge(ledger, call, case, return_BS)
    return ledger.outcome("return_error_in_reward_units")


def _inputs(context: Context) -> Iterator[tuple[cases.Case, float, float]]:
    """Cases with the discounts to try them under: every pair meets every kind of case in turn."""
    discounts = cycle(product(GAMMAS, LAMBDAS))
    count = random_cases(context)
    for case in chain(cases.boundary_grid(context.seed), cases.ragged(context.seed, count)):
        yield case.tracked(), *next(discounts)
        yield case.with_padding(float("nan")).tracked(), *next(discounts)
    for index, case in enumerate(cases.ragged(context.seed + 1, count)):
        yield case.to(cases.DTYPES[1 + index % 3]).tracked(), *next(discounts)


def _judge(ledger: Ledger, call: Call, case: cases.Case, return_BS: Tensor) -> None:
    """Hold one batch's returns against the reference."""
    expected_BS = oracles.gae_returns(case.reward_BS, case.value_BS, case.valid_BS, **call.options)
    ledger.compare(
        call,
        return_BS,
        expected_BS,
        tolerances.returns(case.reward_BS, case.value_BS, case.valid_BS),
        what="return",
        axes="b, t",
        unit="reward units",
        where=case.valid_BS,
        fix=FIX,
    )
    dtype = tolerances.working_dtype(case.value_BS.dtype)
    if return_BS.dtype != dtype:
        message = f"returns of {case.value_BS.dtype} values are {return_BS.dtype}, expected {dtype}"
        ledger.note("dtype", message, "widen values and rewards to at least float32 before the recursion", call)
    if return_BS.requires_grad:
        message = "returns are on the graph of the values: the value head can move its own target"
        ledger.note("attached", message, "compute the returns under torch.no_grad(), or from value_BS.detach()", call)
