"""Head k is not trained on the token k + 1 positions on.

## What it detects

Labels shifted twice, not at all, or by the same distance for every head; a roll that wraps the row's start to its end,
or fills the slot with token 0; targets across padding, documents or rows; a head that is never trained. In the labels
function, and in what the real step does: between a right function and a wrong call lies most of a trainer.

## Why it matters

A model trained on token t+2 has a loss that falls, only to a higher plateau; one trained on its own input has a loss
near 0. Both look like training, and only generation shows the difference.

## How it decides

Behaviour: the gradient of a cross-entropy with respect to one position's logits is softmax - onehot(target), so its
most negative entry is the target. In float64, over 3 batches of the run, the loss's gradient at every logit vector
[b, t, k] must have it at token[t+k+1] wherever both ends are real tokens of one document, and be 0 elsewhere. A zero
gradient at a place that could be supervised (a prompt, a weight that underflows) is allowed and counted; a head with
none but such is a finding. Statistic: places trained on another token, or where there is nothing to predict;
threshold 0. False-alarm rate: 0 for losses whose gradient at the logits is that of a weighted cross-entropy. Where
`losses` has several terms, those count whose gradient pulls one entry up, if there are such: not a divergence.

Function: where the subject has `functions.labels`, its labels of distinct tokens must be equal to the reference's.

Faults that hide one another: where all of the formula's numbers on some more batches are those of the reference with
usual faults in it, up to five at once (`gradgate.checks.usual_faults` lists them), these are told, one alone in the
message, several as a finding each.

## Example

Bad:

```python
label_BSH[..., k] = token_BS.roll(-(k + 1), dims=1)          # the row's start becomes its end's label
```

Good:

```python
label_BSH[:, : S - k - 1, k] = token_BS[:, k + 1 :]          # and -100 beyond
```

## How to fix

The message gives the distance that was found. Compare it with the shifts in the collator, in the labels function and
inside the model: exactly one of them may shift.

## Known limits

A term that pulls logits down elsewhere (label smoothing keeps the order, a penalty on single tokens need not) blurs the
target. Only the module named by `Run.logits_from` is watched; logits [B, S, V] are one head's.

## Sources

Faults MB-01, MB-02, MB-04, MB-05 and MB-17 of the fault catalogue; Gloeckle et al. 2024, arXiv:2404.19737, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from gradgate.checks import cases, oracles
from gradgate.checks.formula_calls import Call, labels_call
from gradgate.checks.formulas import Ledger
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.switches import Again
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject, Tokens
from gradgate.subjects.outputs import are_of_heads, by_head, logits_of

CODE, NAME = "GG412", "label-shift"
NEEDS: tuple[str, ...] = ("tokens", "logits", "losses")
PER_STAGE = True
AGAIN = Again()
OBJECTIVE = "tokens"
BATCHES = 3
MOST_ROWS = 0.9  # of a term that has labels pull one entry up; others have labels that are smoothed, or none
FIX = "shift once: head k at position t predicts token[t+k+1], -100 where either is padding, beyond or another document"


@dataclass(frozen=True)
class Targets:
    """What one batch's step trained each head on.

    Args:
        tokens: the batch's tokens.
        label_BSH: Long[B, S, H], what it should be trained on.
        target_BSH: Long[B, S, H], the entry whose logit the step pushes up most.
        trained_BSH: Bool[B, S, H], whether it pushes any up.
    """

    tokens: Tokens
    label_BSH: Tensor
    target_BSH: Tensor
    trained_BSH: Tensor

    @property
    def wrong(self) -> Tensor:
        """Bool[B, S, H]: trained on another token than the one to predict, or where there is none."""
        return self.trained_BSH & (self.target_BSH != self.label_BSH)


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the targets out of the step's own gradients; then ask the labels function."""
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    if subject.functions.labels is not None:
        for case in cases.every_case(subject.functions, context):
            call = labels_call(subject.functions, case)
            label_BSH = ledger.run(call, case.labels.shape, FIX)
            if label_BSH is not None:
                _compare(ledger, call, case, label_BSH)
    with calling("starting the stage"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    seen = [found for batch in islice(run.batches(), BATCHES) if (found := targets(run, batch)) is not None]
    return _judge(ledger, seen)


def _compare(ledger: Ledger, call: Call, case: cases.Case, label_BSH: Tensor) -> None:
    """Labels against the reference; where all tokens are right, each reason for having none is a fault of its own."""
    own_BSH = case.labels != oracles.IGNORED
    if not ledger.compare(call, label_BSH, case.labels, 0.0, what="label", axes="b, t, k", where=own_BSH, fix=FIX):
        return
    for reason, none_BSH in _without_token(case).items():
        what = f"label {reason}"
        ledger.compare(call, label_BSH, case.labels, 0.0, what=what, axes="b, t, k", where=none_BSH, fix=FIX)


def _without_token(case: cases.Case) -> dict[str, Tensor]:
    """Bool[B, S, H] by reason: where there is no token to predict."""
    valid_BS, document_BS = case.valid_BS, case.document_BS
    positions = valid_BS.shape[1]
    ahead_SH = torch.arange(positions)[:, None] + torch.arange(1, case.horizon + 1)
    beyond_BSH = (ahead_SH >= positions).expand(*valid_BS.shape[:1], -1, -1)
    target_SH = ahead_SH.clamp(max=positions - 1)
    padding_BSH = ~beyond_BSH & ~(valid_BS[..., None] & valid_BS[:, target_SH])
    found = {"beyond the row": beyond_BSH, "at padding or for it": padding_BSH}
    if document_BS is not None:
        apart_BSH = document_BS[..., None] != document_BS[:, target_SH]
        found["in another document"] = ~beyond_BSH & ~padding_BSH & apart_BSH
    return found


def targets(run: Run, batch: Batch) -> Targets | None:
    """What the loss of a batch trains each head on, from its gradient at the logits.

    Args:
        run: a live run.
        batch: one of its batches.

    Returns:
        The targets; None where the named module gave no one tensor [B, S, (H,) V] for the whole batch, with an
        entry for each of its tokens.
    """
    with calling("tokens()"):
        tokens = run.tokens(batch)
    tokens = Tokens(
        tokens.data.cpu(),
        tokens.valid_BS.cpu().bool(),
        None if tokens.document_BS is None else tokens.document_BS.cpu(),
    )
    with calling("losses() and backward"), logits_of(run.modules[str(run.logits_from)]) as outputs:
        reached = _of_labels(run.losses(batch), outputs)
    whole = reached or [torch.zeros_like(output) for output in outputs]
    if len(whole) != 1 or not are_of_heads(whole[0]) or whole[0].shape[:2] != tokens.token_BS.shape:
        return None
    if (tokens.token_BS[tokens.valid_BS] >= whole[0].shape[-1]).any():
        return None  # [B, S, D]: no logits, they have an entry for each token
    gradient_BSHV = by_head(whole[0].cpu())
    lowest_BSH, target_BSH = gradient_BSHV.min(-1)
    label_BSH = oracles.labels(tokens.token_BS, tokens.valid_BS, gradient_BSHV.shape[2], tokens.document_BS)
    return Targets(tokens, label_BSH, target_BSH, lowest_BSH < 0)


def _of_labels(terms: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
    """The gradients at the logits: of the total, or of those of its terms that have labels, where others have none.

    A divergence or an entropy has a gradient where nothing is predicted, too, and no one entry that it pulls up.
    """
    parts = {name: term for name, term in terms.items() if name != "total" and term.requires_grad and term.numel() == 1}
    of_total = _at(terms["total"], outputs, keep=len(parts) > 1)
    if len(parts) < 2:
        return of_total
    each = [
        found for term in parts.values() if len(found := _at(term, outputs, keep=True)) == 1 and bool(found[0].any())
    ]
    labelled = [found for found in each if _pulls_one_up(found[0])]
    if not labelled or len(labelled) == len(each):
        return of_total
    return [torch.stack([found[0] for found in labelled]).sum(0)]


def _at(term: Tensor, outputs: Sequence[Tensor], *, keep: bool) -> list[Tensor]:
    for output in outputs:
        output.grad = None
    term.backward(retain_graph=keep)
    return [output.grad for output in outputs if output.grad is not None]


def _pulls_one_up(gradient: Tensor) -> bool:
    """Whether nearly all rows with a gradient pull one entry up and all others down, as a cross-entropy does."""
    rows = gradient.flatten(0, -2)
    rows = rows[rows.any(-1)]
    return float(((rows < 0).sum(-1) == 1).double().mean()) > MOST_ROWS


def _judge(ledger: Ledger, seen: list[Targets]) -> Outcome:
    """Findings about the function, then about what the step does, head by head."""
    about_function = ledger.outcome("label_differences")
    trained = sum(int(found.trained_BSH.sum()) for found in seen)
    wrong = sum(int(found.wrong.sum()) for found in seen)
    supervisable = sum(int((found.label_BSH != oracles.IGNORED).sum()) for found in seen)
    heads = range(seen[0].label_BSH.shape[2]) if seen else range(0)
    findings = (*about_function.findings, *chain.from_iterable(_of_head(seen, k) for k in heads))
    return Outcome(
        findings,
        measured={
            "places_with_wrong_target": wrong,
            "places_trained": trained,
            "places_that_could_be_trained": supervisable,
            "function_calls": ledger.tried,
        },
        allowed={"places_with_wrong_target": 0},
        inconclusive="" if supervisable else _nothing_seen(seen),
    )


def _nothing_seen(seen: list[Targets]) -> str:
    if seen:
        return f"no head of {len(seen)} batches has a token to predict"
    return "the module named by logits_from gave no single tensor [B, S, (H,) V] on the loss's graph for a batch"


def _of_head(seen: list[Targets], head: int) -> Iterator[Finding]:
    """What is wrong with one head: another token, a place without one, or no training at all."""
    could = sum(int((found.label_BSH[..., head] != oracles.IGNORED).sum()) for found in seen)
    trained = sum(int(found.trained_BSH[..., head].sum()) for found in seen)
    if could and not trained:
        message = f"head {head} gets no gradient at any of {could} places with a token at t+{head + 1}"
        yield Finding(CODE, NAME, message, fix=FIX, detail={"head": head, "places": could})
        return
    shifted = sum(int((found.wrong & (found.label_BSH != oracles.IGNORED))[..., head].sum()) for found in seen)
    outside = sum(int((found.wrong & (found.label_BSH == oracles.IGNORED))[..., head].sum()) for found in seen)
    if shifted:
        distance, matches = _distance(seen, head)
        found_at = f"mostly t{distance:+d} ({matches} of {trained} trained places)" if matches else "no fixed distance"
        message = (
            f"head {head} is trained on another token than t+{head + 1} at {shifted} of {trained} places: {found_at}"
        )
        yield Finding(CODE, NAME, message, fix=FIX, count=shifted, detail=_example(seen, head, outside=False))
    if outside:
        message = (
            f"head {head} is trained at {outside} places where token t+{head + 1} is padding, beyond the row or in "
            f"another document"
        )
        yield Finding(CODE, NAME, message, fix=FIX, count=outside, detail=_example(seen, head, outside=True))


def _distance(seen: list[Targets], head: int) -> tuple[int, int]:
    """The distance d at which token[t+d] is most often what the head is trained on, and how often."""
    positions = max(found.label_BSH.shape[1] for found in seen)
    nearest_first = sorted(range(1 - positions, positions), key=lambda d: abs(d - head - 1))
    matches = {distance: sum(_matches(found, head, distance) for found in seen) for distance in nearest_first}
    best = max(matches, key=lambda distance: matches[distance])
    return best, matches[best]


def _matches(found: Targets, head: int, distance: int) -> int:
    """At how many places the head is trained on the token at that distance; batches have their own lengths."""
    positions = found.label_BSH.shape[1]
    first, last = max(0, -distance), min(positions, positions - distance)
    if last <= first:
        return 0
    token_BS = found.tokens.token_BS[:, first + distance : last + distance]
    trained_BS, target_BS = found.trained_BSH[:, first:last, head], found.target_BSH[:, first:last, head]
    return int((trained_BS & (target_BS == token_BS)).sum())


def _example(seen: list[Targets], head: int, *, outside: bool) -> dict[str, Any]:
    """One place that shows it, with its row."""
    for found in seen:
        shows_BS = (found.wrong & ((found.label_BSH == oracles.IGNORED) == outside))[..., head]
        if shows_BS.any():
            b, t = shows_BS.nonzero()[0].tolist()
            return {
                "index": [b, t, head],
                "trained_on": int(found.target_BSH[b, t, head]),
                "expected": int(found.label_BSH[b, t, head]),
                "token_S": found.tokens.token_BS[b].tolist(),
                "valid_S": found.tokens.valid_BS[b].tolist(),
            }
    raise AssertionError("called only where there is one")
