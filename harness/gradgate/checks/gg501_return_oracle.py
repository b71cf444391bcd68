"""Returns, or the rewards they start from, differ from a slow literal reference, at the ends of rows too.

## What it detects

Value targets that are not the GAE returns of the row's real tokens: bootstrapped from values at padding, from the last
value or past the row's end, a reward one step early, a gap that ends the recursion, documents that run into each other,
advantage instead of return, a recursion in bfloat16, a target that is still on the graph. A collator that puts rewards
one token early, at the last column instead of the last real token, on padding, or on another row's tokens.

## Why it matters

The value head learns whatever it is given. A target that reads padding makes its loss depend on the batch it happens to
lie in; one that is on the graph lets the value head lower its loss by moving the target.

## How it decides

Statistic: the largest |return - reference| in reward units at real tokens, over the boundary grid and random ragged and
packed batches, gamma in {0, 0.5, 0.99, 1}, lambda in {0, 0.95, 1}, with finite garbage and with NaN at padding, for
float32, float64, bfloat16 and float16 values and rewards. Threshold: 2 (3 n + 8) u n M with n the row's real tokens, M
the largest |r| + 2 |v| and u the roundoff of float32 (float64 for float64); a worst case, so that the false-alarm rate
is 0. Returns must be at least float32, and detached. What NaN at padding alone shows is a warning: a mask that is
multiplied in holds as long as padding has numbers; and so is what float64 alone shows and float32's roundoff covers,
since no trainer runs in float64.

Where a run has `placed`, the rewards on the tokens of 8 of its batches are held against the reference's placing of the
rewards that its rows have in the data. Threshold: two roundings of the rewards' dtype; false-alarm rate 0, if what
`placed` looks up is right.

A formula may not write into the values that it is given, also not behind `detach`, which shares them: the model's
output is then another for whoever reads it next. At padding alone that is a warning.

Faults that hide one another: where all of the formula's numbers on some more batches are those of the reference with
usual faults in it, up to five at once (`gradgate.checks.usual_faults` lists them), these are told, one alone in the
message, several as a finding each.

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

What stands at padding in the answer is not judged. Lambda and gamma outside [0, 1] are not tried. A row whose reward is
0 shows no misplacing.

## Sources

Schulman et al. 2016, arXiv:1506.02438, equation 16; faults LW-22, LW-23, LW-25, LW-26 and MB-22 of the fault catalogue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice, product

import torch
from torch import Tensor

from gradgate.checks import cases, oracles, tolerances
from gradgate.checks.culprits import Failing, culprit
from gradgate.checks.formula_calls import Call, returns_call
from gradgate.checks.formulas import Ledger, plain
from gradgate.checks.naming import are_named
from gradgate.checks.oracle_steps import placing
from gradgate.checks.raised import calling
from gradgate.checks.source.trainer import runs_in_16_bits
from gradgate.core.errors import SubjectError
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Functions, Placed, Stage, Subject

CODE, NAME = "GG501", "return-oracle"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
GAMMAS = (0.99, 0.0, 0.5, 1.0)
LAMBDAS = (0.95, 0.0, 1.0)
BATCHES = 8
LOOKED_INTO = 2  # batches whose making is looked into for the line
FIX_PLACED = "place each row's reward by its mask and documents: at its last real token, or evenly over its real tokens"
FIX = "scan each row's (document's) real tokens in reverse order in at least float32, with 0 after the last one"


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Compare returns with the reference under every pair of discounts, and rewards in batches with their placing."""
    ledger = Ledger(CODE, NAME, context.device, subject.source, keeps=True)
    offers = subject.functions.returns is not None
    half = offers and runs_in_16_bits(subject)
    for case, gamma, gae_lambda in _inputs(subject.functions, context) if offers else ():
        if case.value_BS.dtype in tolerances.HALF and not half:
            continue
        call = returns_call(subject.functions, case, gamma=gamma, gae_lambda=gae_lambda)
        return_BS = ledger.run(call, case.valid_BS.shape, FIX)
        if return_BS is not None:
            _judge(ledger, call, case, return_BS)
    findings, placed = _of_stages(subject, context)
    if not offers and not placed:
        hints = (Subject.CAPABILITIES["functions.returns"], Subject.CAPABILITIES["placed"])
        return Outcome(not_applicable=f"{subject.name} has neither: {', or '.join(hints)}")
    outcome = ledger.outcome("return_error_in_reward_units", batches_with_rewards=placed)
    return dataclasses.replace(outcome, findings=(*outcome.findings, *findings))


def _of_stages(subject: Subject, context: Context) -> tuple[list[Finding], int]:
    """What is wrong with the rewards in the stages' batches, and how many batches have any."""
    findings, seen = [], 0
    for stage in subject.stages:
        with calling(f"starting stage {stage.name!r}"):
            run = stage.start(context.seed, device=context.device)
        if "placed" not in declared(run):
            continue
        with calling(f"placed() of stage {stage.name!r}"):
            batches = [run.placed(batch) for batch in islice(run.batches(), BATCHES)]
        seen += len(batches)
        wrong = [told for placed in batches if (told := _misplaced(placed)) is not None]
        if wrong:
            (b, t), got, want, allowed = wrong[0]
            message = (
                f"the {batches[0].placement} reward at [b, t] = [{b}, {t}] of a batch of stage {stage.name!r} is "
                f"{got:.6g}, expected {want:.6g} reward units from the rows it was made of; allowed: {allowed:.1e} off"
            )
            detail = {"index": [b, t], "actual": plain(got), "expected": plain(want)}
            line = _placed_at(stage, subject, context)
            findings.append(Finding(CODE, NAME, message, culprit=line, fix=FIX_PLACED, count=len(wrong), detail=detail))
    return findings, seen


def _placed_at(stage: Stage, subject: Subject, context: Context) -> Location | None:
    """The line at which the making of a batch leaves the placing of its rewards."""
    if not are_named():
        return None
    with calling(f"starting stage {stage.name!r}"):
        runs = [stage.start(context.seed, device=context.device) for _ in range(LOOKED_INTO)]
    failing = []
    for number, run in enumerate(runs):
        placed = run.placed(next(islice(run.batches(), number, None)))
        if _misplaced(placed) is not None:
            steps = placing(placed.reward_B, placed.valid_BS.bool(), placed.placement, placed.document_BS)
            failing.append(Failing(partial(_placed_again, stage, context, number), _is_placed, steps))
    return culprit(failing, subject.source)


def _placed_again(stage: Stage, context: Context, number: int) -> Placed:
    run = stage.start(context.seed, device=context.device)
    return run.placed(next(islice(run.batches(), number, None)))


def _is_placed(placed: Placed) -> bool:
    return _misplaced(placed) is None


def _misplaced(placed: Placed) -> tuple[list[int], float, float, float] | None:
    """Place, reward, right reward and bound of the worst misplaced reward of a batch; None: all are right."""
    valid_BS, document_BS = placed.valid_BS.cpu().bool(), placed.document_BS
    documents = None if document_BS is None else document_BS.cpu()
    want_BS = oracles.place_rewards(placed.reward_B.cpu(), valid_BS, placed.placement, documents)
    got_BS = placed.reward_BS.detach().cpu().double()
    if got_BS.shape != want_BS.shape:
        raise SubjectError(f"placed(): reward_BS has the shape {list(got_BS.shape)}, expected {list(want_BS.shape)}")
    allowed = tolerances.placed_reward(placed.reward_B.to(placed.reward_BS.dtype))
    distance_BS = (got_BS - want_BS).abs().nan_to_num(nan=torch.inf).masked_fill(~valid_BS, 0.0)
    b, t = divmod(int(distance_BS.argmax()), valid_BS.shape[1])
    if float(distance_BS[b, t]) <= allowed:
        return None
    return [b, t], float(got_BS[b, t]), float(want_BS[b, t]), allowed


def _inputs(functions: Functions, context: Context) -> Iterator[tuple[cases.Case, float, float]]:
    """Cases with the discounts to try them under: every pair meets every kind of case in turn."""
    discounts = cycle(product(GAMMAS, LAMBDAS))
    for case in cases.every_case(functions, context):
        yield case.tracked(), *next(discounts)
        yield case.with_padding(float("nan")).tracked(), *next(discounts)
    for index, case in enumerate(cases.other_cases(functions, context, cases.random_count(context))):
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
