"""Crash, NaN or a wrong value at the boundaries of a batch.

## What it detects

Labels, head weights, loss, returns and placed rewards at the ends of rows and around padding: rows shorter than the
horizon, of one position, of nothing but padding, with one real token, padded left, right, on both sides or in the
middle, one row alone, tensors that are not contiguous, packed documents. There off-by-one errors, wrapped rolls,
0/0, squeezed dimensions and reads past the end live.

## Why it matters

A batch of full rows never shows them. In a long run the last partial batch, or one that holds a single short row, ends
in NaN, or trains the end of every row on the wrong token for as long as it runs.

## How it decides

Every one of the functions that the subject has is called on the grid S in {1, 2, H-1, H, H+1, 2H+1},
H in {1, 2, 4}, with each mask alone (B = 1), all together, strided, and packed; all positions are compared with the
literal references in float64 (`gradgate.checks.oracles`). Labels must be equal. The others may differ by a worst case
to first order, doubled, with u the roundoff of float32 (of the logits' own dtype for the loss), as
`gradgate.checks.tolerances` derives it:

* weights by 12 u m / tau + 2 (H + 6) u, m the largest |v| + lambda |v previous| that enters (GG403);
* the loss by 2 u (8 L + V + 4 + (N H + 4) C), for largest logits L and cross-entropies C = 2 L + log V: shifting and
  exponentiating cost 6 u L, the sum over V entries (V + 4) u in its logarithm, the label's term 2 u L, and the weighted
  sum over N positions and H heads with its quotient (N H + 4) u C;
* the value loss by 2 (n + 4) u M^2 over n real tokens, M the largest |v| + |return|: a square is off by 3 u M^2, a sum
  of n of them and its quotient by (n + 1) u M^2, and nothing cancels;
* returns by 2 (3 n + 8) u n M, M the largest |r| + 2 |v| (GG501); placed rewards by two roundings.
 Without any position to learn from, the loss must be exactly 0,
attached to the graph, with a gradient of exactly 0. Gradients of the loss must be finite.

Where a run offers a strategy of batches (`Run.strategy`), its own `losses` and their gradients are computed in float32
on 40, 120 or 600 batches of it, by the profile: none may raise, and none may be NaN or infinite. What fails is made
smaller, in at most 100 tries, and the smallest batch stands in the finding.

False-alarm rate: 0, no bound is statistical.

Where a run has `crop`, its own `losses` are computed in float32 on the first 1, 2 and 3 positions of a batch, and of
one row; where it has `select_rows`, on one row; where its batches are mappings with integer `labels`, on one whose
first row has none (-100 throughout), and on one without any: none may raise, none may be NaN or infinite, nor its
gradient, and `total` must be on the graph.

Faults that hide one another: where all of the formula's numbers on some more batches are those of the reference with
usual faults in it, up to five at once (`gradgate.checks.usual_faults` lists them), these are told, one alone in the
message, several as a finding each.

## Example

Bad:

```python
loss = position_loss.sum() / counted.sum()                     # 0/0 where no position has a valid head
last = valid_BS.sum(1) - 1                                     # the last real token only if padding is on the right
```

Good:

```python
loss = position_loss.sum() / counted.sum().clamp(min=1)        # 0, attached
last = (valid_BS * torch.arange(1, S + 1)).argmax(1)           # wherever the padding is
```

## How to fix

Start from the finding's reproduction: it is the smallest batch of the grid that fails.

## Known limits

Functions that the subject does not offer are not tried; `functions_tried` says how many were. Of drawn batches it asks
for numbers, not for the right ones. Gradients of the weights
are compared by weight-oracle (GG403).

## Sources

Faults LW-23, LW-26, MB-04, MB-05, MB-16, MB-19, MB-20, MB-22 and MB-28 of the fault catalogue.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from gradgate.checks import cases, oracles, tolerances
from gradgate.checks.cropped import of_cropped_batches
from gradgate.checks.drawing import Fault, as_finding, can_draw, smallest
from gradgate.checks.formula_calls import Call, labels_call, present, returns_call, weights_call
from gradgate.checks.formulas import Ledger
from gradgate.checks.raised import SubjectRaisedError, calling
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.core.finding import Finding
from gradgate.core.origin import origin
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Functions, Run, Stage, Subject

CODE, NAME = "GG404", "boundary-grid"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SETTINGS = {"discount_lambda": 0.95, "temperature": 0.7}
DECAYS = {"gamma": 0.99, "gae_lambda": 0.95}
FIX_LABELS = "-100 where t or t+k+1 is padding, beyond the row or in another document; never wrap around"
FIX_WEIGHTS = "softmax over the valid heads only; exactly 0 at invalid heads and where no head is valid"
FIX_LOSS = "divide by the number of positions with a valid head, clamped to at least 1, and keep the sum on the graph"
FIX_VALUE_LOSS = "sum the squared errors of real tokens alone and divide by their number, clamped to at least 1"
FIX_RETURNS = "scan the real tokens of a row in reverse order, with 0 after the last one"
FIX_DRAWN = "paste the batch, and follow the first number that is not finite: an empty sum, 0/0, an all-masked row"
FIX_REWARDS = "look for the last real token with the mask, not with its count: padding may be on either side"


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Walk the grid with every function that the subject offers."""
    functions = subject.functions
    tries = {
        _labels: functions.labels,
        _weights: functions.weights,
        _loss: functions.loss,
        _value_loss: functions.value_loss,
        _returns: functions.returns,
        _rewards: functions.place_rewards,
    }
    offered = [attempt for attempt, function in tries.items() if function is not None]
    cropped = [of_cropped_batches(stage, context, CODE, NAME) for stage in subject.stages]
    tried = sum(count for _, count in cropped)
    drawn, number = _of_stages(subject, context)
    if not (offered or tried or number):
        return Outcome(
            not_applicable=f"{subject.name} offers neither its formulas nor other batches: give it "
            f"functions=gradgate.Functions(); or {Subject.CAPABILITIES['crop']}; or {Subject.CAPABILITIES['strategy']}"
        )
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    for case in cases.boundary_grid(context.seed, gaps=functions.gaps) if offered else ():
        for attempt in offered:
            attempt(ledger, functions, case)
    findings = [*(finding for found, _ in cropped for finding in found), *drawn]
    outcome = ledger.outcome(functions_tried=len(offered), batches_cropped=tried, batches_drawn=number)
    return replace(outcome, findings=(*findings, *outcome.findings))


def _of_stages(subject: Subject, context: Context) -> tuple[list[Finding], int]:
    """What is wrong with the losses of batches that the stages' own strategies draw, and how many were drawn."""
    findings, drawn = [], 0
    for stage in subject.stages:
        with calling("start()"):
            run = stage.start(context.seed, device=context.device)
        if can_draw(run):
            found, tried = smallest(run, partial(_broken, run, context.seed), context)
            drawn += tried
            if found is not None:
                findings.append(as_finding(found, CODE, NAME, stage.name, FIX_DRAWN))
    return findings, drawn


def _broken(run: Run, seed: int, batch: Batch) -> Fault | None:
    """What is wrong with the losses of a batch; None: nothing."""
    try:
        with seeded(seed), calling("losses()"):
            terms = run.losses(batch)
        for name, term in terms.items():
            if not bool(term.detach().isfinite().all()):
                return Fault(f"`{name}` is {float(term.detach())}, expected a finite number")
        total = terms["total"]
        parameters = [parameter for parameter in named_parameters(run) if parameter.requires_grad]
        with calling("backward of `total`"):
            gradients = torch.autograd.grad(total, parameters, allow_unused=True) if total.requires_grad else ()
    except SubjectRaisedError as error:
        return Fault(str(error), origin(error.error))
    bad = sum(gradient is not None and not bool(gradient.isfinite().all()) for gradient in gradients)
    return Fault(f"the gradient of `total` is not finite in {bad} of {len(parameters)} parameters") if bad else None


def _labels(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    call, expected_BSH = labels_call(functions, case), case.labels
    label_BSH = ledger.run(call, expected_BSH.shape, FIX_LABELS)
    if label_BSH is not None:
        ledger.compare(call, label_BSH, expected_BSH, 0.0, what="label", axes="b, t, k", fix=FIX_LABELS)


def _weights(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    call, label_BSH = weights_call(functions, case, **SETTINGS), case.labels
    weight_BSH = ledger.run(call, label_BSH.shape, FIX_WEIGHTS)
    if weight_BSH is None:
        return
    expected_BSH = oracles.head_weights(case.value_BS, label_BSH, case.valid_BS, **call.options)
    allowed = tolerances.head_weight(case.value_BS, case.valid_BS, case.horizon, **call.options)
    ledger.compare(call, weight_BSH, expected_BSH, allowed, what="head weight", axes="b, t, k", fix=FIX_WEIGHTS)


def _loss(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    call = _loss_call(functions, case)
    logits_BSHV, label_BSH, weight_BSH = call.arguments.values()
    loss = ledger.run(call, (), FIX_LOSS)
    if loss is None:
        return
    predicting = int((label_BSH != oracles.IGNORED).any(-1).sum())
    expected = oracles.wmtp_loss(logits_BSHV.detach(), label_BSH, weight_BSH)
    allowed = tolerances.loss(logits_BSHV, predicting) if predicting else 0.0
    ledger.compare(call, loss, expected, allowed, what="loss", unit="nats", fix=FIX_LOSS)
    if not loss.requires_grad:
        ledger.note("loss off the graph", "loss is not attached to the logits' graph", FIX_LOSS, call)
        return
    gradient_BSHV = ledger.gradient(call, loss, logits_BSHV, FIX_LOSS)
    if gradient_BSHV is not None:
        what, axes = "gradient of the loss with respect to the logit", "b, t, k, v"
        silent_BSHV = (label_BSH == oracles.IGNORED)[..., None].expand(gradient_BSHV.shape)
        if ledger.finite(call, gradient_BSHV, what=what, axes=axes, fix=FIX_LOSS):
            zero = torch.zeros(gradient_BSHV.shape)
            ledger.compare(call, gradient_BSHV, zero, 0.0, what=what, axes=axes, where=silent_BSHV, fix=FIX_LOSS)


def _loss_call(functions: Functions, case: cases.Case) -> Call:
    """The call of the subject's loss, with the reference's labels and weights and random logits."""
    label_BSH = case.labels
    weight_BSH = oracles.head_weights(
        case.value_BS, label_BSH, case.valid_BS, **SETTINGS, document_BS=case.document_BS
    ).float()
    rng = torch.Generator().manual_seed(case.token_BS.numel())
    logits_BSHV = 3 * torch.randn(*label_BSH.shape, case.token_BS.numel(), generator=rng)
    if not case.valid_BS.is_contiguous():
        logits_BSHV = logits_BSHV.transpose(1, 2).contiguous().transpose(1, 2)  # heads stacked in front, and moved
    arguments = {
        "logits_BSHV": logits_BSHV.requires_grad_(),
        "label_BSH": label_BSH,
        "weight_BSH": weight_BSH,
    }
    return Call("loss", present(functions.loss), case.describe(), arguments)


def _value_loss(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    value_BS = case.tracked().value_BS
    arguments = {"value_BS": value_BS, "return_BS": case.reward_BS, "valid_BS": case.valid_BS}
    call = Call("value_loss", present(functions.value_loss), case.describe(), arguments)
    loss = ledger.run(call, (), FIX_VALUE_LOSS)
    if loss is None:
        return
    expected = oracles.value_loss(value_BS.detach(), case.reward_BS, case.valid_BS)
    allowed = tolerances.value_loss(value_BS, case.reward_BS, case.valid_BS)
    what, unit = "value loss", "squared reward units"
    ledger.compare(call, loss, expected, allowed, what=what, unit=unit, fix=FIX_VALUE_LOSS)
    if not loss.requires_grad:
        ledger.note("value loss off the graph", "value loss is not attached to the values' graph", FIX_VALUE_LOSS, call)
        return
    gradient_BS = ledger.gradient(call, loss, value_BS, FIX_VALUE_LOSS)
    if gradient_BS is not None:
        what, zero_BS = "gradient of the value loss with respect to the value", torch.zeros(gradient_BS.shape)
        if ledger.finite(call, gradient_BS, what=what, axes="b, t", fix=FIX_VALUE_LOSS):
            padding_BS = ~case.valid_BS
            ledger.compare(
                call, gradient_BS, zero_BS, 0.0, what=what, axes="b, t", where=padding_BS, fix=FIX_VALUE_LOSS
            )


def _returns(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    call = returns_call(functions, case, **DECAYS)
    return_BS = ledger.run(call, case.valid_BS.shape, FIX_RETURNS)
    if return_BS is None:
        return
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
        fix=FIX_RETURNS,
    )


def _rewards(ledger: Ledger, functions: Functions, case: cases.Case) -> None:
    for placement in ("terminal", "uniform"):
        arguments = {"reward_B": case.reward_B, "valid_BS": case.valid_BS, "placement": placement}
        options = {"document_BS": case.document_BS}
        call = Call("place_rewards", present(functions.place_rewards), case.describe(), arguments, options)
        reward_BS = ledger.run(call, case.valid_BS.shape, FIX_REWARDS)
        if reward_BS is not None:
            expected_BS = oracles.place_rewards(case.reward_B, case.valid_BS, placement, case.document_BS)
            ledger.compare(
                call,
                reward_BS,
                expected_BS,
                tolerances.placed_reward(case.reward_B),
                what=f"{placement} reward",
                axes="b, t",
                unit="reward units",
                fix=FIX_REWARDS,
            )
