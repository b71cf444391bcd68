"""Weights of tokens do not average 1, sit on their bounds, turn their scores around, or read padding.

## What it detects

For trainers that give each token one weight (exponentials of advantages, shares of an excess loss, selections), where
heads have none of their own: clamping behind the normalisation, statistics over padding, a whitening that divides by a
spread of 0, exponents so large that every weight is one of the two bounds, a sign that prefers the worse token.

## Why it matters

Weights that average 2 double the learning rate, and weights on their bounds are a coin: the run is compared with one
that it is not like, and the critic's numbers have no say.

## How it decides

On random scores of size 0.3 (rewards of 0 and 1 leave advantages of about that) over ragged batches, a single token, a
constant score, padding on both sides, no token:

* the mean over the batch's real tokens, or over each row's, is 1; without unit, within (n + 6) 4 u of the weights'
  dtype, n real tokens (one rounding of each weight and of the sum, doubled);
* every weight at a real token is finite and at least 0, also where scores are 1e4;
* other scores at padding change no weight at a real token, bit for bit;
* of two real tokens of a row the one with the larger score weighs at least as much, within that tolerance;
* of the weights of a batch of 8 and more tokens fewer than three quarters are its smallest or its largest one; a
  selection (scores a thousand times smaller give two weights as well) is what it is, and passes.

False-alarm rate: 0 for the first four; for the last, weights that are bounded at a fifth and at five times the mean,
with a temperature of at least 0.2, are below a half.

## Example

Bad:

```python
weight_BS = torch.exp(advantage_BS / 0.05).clamp(0.1, 5.0)
```

Good:

```python
weight_BS = torch.exp((advantage_BS / 0.7).clamp(-3.0, 3.0)) * valid_BS
weight_BS = weight_BS * valid_BS.sum() / weight_BS.sum().clamp(min=tiny)
```

In the adapter:

```python
gradgate.Functions(token_weights=lambda score_BS, valid_BS: trainer.weights(score_BS, valid_BS))
```

## How to fix

Bound the exponent, not the weight; normalise last, over real tokens.

## Known limits

What a weight at padding is, is not asked: the loss's mask decides (GG405). Which number the score is, the adapter says.

## Sources

Faults LW-19, LW-31 and LW-32 of the fault catalogue; Peng et al. 2019, arXiv:1910.00177, for exponential advantages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from gradgate.checks import cases, tolerances
from gradgate.checks.formula_calls import Call, present
from gradgate.checks.formulas import Ledger
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Functions, Stage, Subject

CODE, NAME = "GG417", "token-weights"
NEEDS: tuple[str, ...] = ("functions.token_weights",)
PER_STAGE = False
SIZE, TINY, HUGE = 0.3, 1e-3, 1e4
SHARE_ON_BOUNDS = 0.75
ENOUGH = 8  # tokens of a batch: of two, both are bounds
WHAT, AXES = "token weight", "b, t"
FIX = "bound the exponent, not the weight, and normalise last, over real tokens alone"


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Ask for the weights of many scores and look at what every weighting has."""
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    weights: list[Tensor] = []
    smaller: list[Tensor] = []
    for case in _cases(subject.functions, context):
        weight_BS = _one(ledger, subject.functions, case)
        if weight_BS is None or not case.name.startswith("random"):
            continue
        weights.append(weight_BS[case.valid_BS])
        less_BS = ledger.run(_call(subject.functions, _scaled(case, TINY)), case.valid_BS.shape, FIX)
        smaller += [] if less_BS is None else [less_BS.detach()[case.valid_BS]]
    share = _share_on_bounds(weights)
    if share > SHARE_ON_BOUNDS and _share_on_bounds(smaller) < 1:
        message = f"{share:.0%} of the token weights are equal to the smallest or the largest one; allowed: less than "
        case = next(_cases(subject.functions, context))
        ledger.note("on the bounds", f"{message}{SHARE_ON_BOUNDS:.0%}", FIX, _call(subject.functions, case))
    return ledger.outcome(share_on_bounds=share)


def _cases(functions: Functions, context: Context) -> Iterator[cases.Case]:
    """Batches with scores for values: random ones first, then those at the boundaries."""
    ragged = cases.ragged(context.seed, cases.random_count(context), gaps=functions.gaps)
    yield from (dataclasses.replace(_scaled(case, SIZE), document_BS=None) for case in ragged if case.valid_BS.any())
    left = torch.tensor([[False, True, True, True], [False, False, True, True]])
    for name, valid_BS in {
        "one real token": torch.tensor([[True, False, False]]),
        "padding on the left": left,
        "no real token": torch.zeros(1, 3, dtype=torch.bool),
    }.items():
        yield _scaled(cases.make(name, valid_BS, 1, context.seed), SIZE)
    alike = cases.make("a constant score", left.flip(1), 1, context.seed)
    yield dataclasses.replace(alike, value_BS=torch.full_like(alike.value_BS, SIZE))
    yield _scaled(cases.make("scores of 1e4", left.flip(1), 1, context.seed), HUGE)


def _one(ledger: Ledger, functions: Functions, case: cases.Case) -> Tensor | None:
    """The weights of one batch, held against all that is asked of them; None where they do not come."""
    call, valid_BS = _call(functions, case), case.valid_BS
    answer = ledger.run(call, valid_BS.shape, FIX)
    if answer is None or not ledger.finite(call, answer, what=WHAT, axes=AXES, fix=FIX, where=valid_BS):
        return None
    weight_BS = answer.detach().double()
    count = int(valid_BS.sum())
    allowed = 4 * (count + 6) * tolerances.roundoff(answer.dtype if answer.is_floating_point() else torch.float32)
    if count:
        _mean(ledger, call, weight_BS, valid_BS, allowed)
    low_BS = weight_BS.clamp(max=0.0)
    ledger.compare(call, low_BS, torch.zeros_like(low_BS), 0.0, what=WHAT, axes=AXES, where=valid_BS, fix=FIX)
    _order(ledger, call, case, weight_BS, allowed)
    other = ledger.run(_call(functions, case.with_padding(-cases.GARBAGE)), valid_BS.shape, FIX)
    if other is not None:
        what = f"{WHAT} where padding has other scores"
        ledger.compare(call, other.double(), weight_BS, 0.0, what=what, axes=AXES, where=valid_BS, fix=FIX)
    return weight_BS


def _mean(ledger: Ledger, call: Call, weight_BS: Tensor, valid_BS: Tensor, allowed: float) -> None:
    """1 over the batch, or over each of its rows."""
    of_rows = [weight_BS[b][valid_BS[b]].mean() for b in range(len(valid_BS)) if valid_BS[b].any()]
    if all(abs(float(mean) - 1.0) <= allowed for mean in of_rows):
        return
    mean = weight_BS[valid_BS].mean()
    ledger.compare(call, mean, torch.ones_like(mean), allowed, what="the mean of the token weights", fix=FIX)


def _order(ledger: Ledger, call: Call, case: cases.Case, weight_BS: Tensor, allowed: float) -> None:
    """In each row, tokens by their scores: no weight falls."""
    for b, valid_S in enumerate(case.valid_BS):
        order = case.value_BS[b].masked_fill(~valid_S, torch.inf).argsort(stable=True)[: int(valid_S.sum())].tolist()
        for less, more in pairwise(order):
            fall = float(weight_BS[b, less] - weight_BS[b, more])
            if case.value_BS[b, less] < case.value_BS[b, more] and fall > allowed * max(1.0, float(weight_BS[b].max())):
                message = (
                    f"{WHAT} falls by {fall:.3g} where the score rises, from [b, t] = [{b}, {less}] to [{b}, {more}]"
                )
                ledger.note("turned around", f"{message}; allowed: {allowed:.1e}", FIX, call)
                return


def _share_on_bounds(weights: list[Tensor]) -> float:
    """Of the weights in batches of 8 and more tokens, those that are the smallest or the largest of their batch."""
    shares = [
        torch.isclose(flat[:, None], torch.stack([flat.min(), flat.max()])).any(-1).double().mean()
        for flat in weights
        if len(flat) >= ENOUGH
    ]
    return float(torch.stack(shares).mean()) if shares else 0.0


def _scaled(case: cases.Case, size: float) -> cases.Case:
    value_BS = torch.where(case.valid_BS, case.value_BS * size, case.value_BS)
    return dataclasses.replace(case, value_BS=value_BS, reward_BS=case.reward_BS)


def _call(functions: Functions, case: cases.Case) -> Call:
    arguments = {"score_BS": case.value_BS, "valid_BS": case.valid_BS}
    return Call("token_weights", present(functions.token_weights), case.describe(), arguments)
