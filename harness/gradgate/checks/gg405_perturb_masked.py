"""Changing anything that is masked changes loss, targets or gradients.

## What it detects

Tokens, features or rewards at padding that reach the loss: a mask that is missing, inverted or applied to the
denominator alone, a value that is read one position past the end, a statistic over padding.

## Why it matters

Whatever happens to stand at padding trains the model.

## How it decides

In float64, on one batch that has padding (else one that `Run.pad` padded by 3): every tensor of it that has the shape
[B, S, ...] of the mask (`Run.valid`) is changed where the mask says padding, one at a time: floating numbers by 100
times a normal draw, the tokens (where the run has `tokens`) to other real tokens. Masks, labels and other integers are
left alone. Statistic: the distance of each loss term, and of its gradient, from those of the batch as it is.

Where a run has `value_targets`, targets at real tokens are held against those that other values at padding give, to
1e-9 of the largest: with the masks of the run's batches, and of those with a key of `Stage.options` moved that is
called after padding; as the run is, and with each key moved that is called after targets, returns or rewards.

Where a run offers a strategy of batches (`Run.strategy`), the same is asked of 16, 48 or 240 drawn batches, by the
profile: with padding on the left, gaps, packed rows, as far as the strategy has them. The smallest that fails stands in
the finding.

Tolerance, derived: reordering a sum of n terms, or computing it in other blocks, is a change of each term by at most n
u of itself (u = 2**-53). The condition is measured: the noise is the largest change of the quantity under 3 random
changes of every parameter by 2 u. Allowed: 2 n (noise + u |quantity|), with n the number of elements of the batch's
largest tensor. Dropout keeps everything while the check looks; a loss that draws other random numbers, and differs, is
inconclusive.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
loss = (value_BS - return_BS).square().sum() / valid_BS.sum()             # mask in the denominator alone
```

Good:

```python
loss = ((value_BS - return_BS).square() * valid_BS).sum() / valid_BS.sum()
```

## How to fix

Mask what enters a sum, not only what it is divided by; take neighbours from real tokens alone.

## Known limits

What the trainer computes from a batch beforehand (features, labels) is only seen where it is a tensor of the batch.

## Sources

Faults LW-08, LW-22, MB-10 and MB-26 of the fault catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from gradgate.checks import batches
from gradgate.checks.drawing import Fault, as_finding, can_draw, smallest
from gradgate.checks.invariance import Distance, Probe
from gradgate.checks.leaks import leak
from gradgate.checks.moved import in_words, moves, runs_of
from gradgate.checks.raised import SubjectRaisedError, calling, reports_raises
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject, Tokens

CODE, NAME = "GG405", "perturb-masked"
NEEDS: tuple[str, ...] = ("losses", "valid")
PER_STAGE = True
BATCHES = 4  # of which the first with padding is taken
PADDING = 3
LARGE = 100.0
SHARE = 0.4  # of the tries of checks that compute each drawn batch once
OF_VALUES = 1e-9
OF_PADDING = ("pad",)
OF_TARGETS = ("target", "return", "reward", "place", "gamma", "lam", "td", "gae", "bootstrap", "discount")
NONE = Distance("", 0.0, 0.0, 0.0)
FIX = "mask what enters the sum, and take neighbours from real tokens alone"


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Change what is masked, one tensor at a time, and compare."""
    probe = Probe(stage, context)
    generator = torch.Generator().manual_seed(context.seed)
    batch = _padded(probe.run)
    changed = [] if batch is None else list(_changed(probe.run, batch, generator))
    found = [(name, probe.furthest(batch, [other])) for name, other in changed]
    beyond = [(name, distance) for name, distance in found if distance.is_beyond]
    line = _line(probe, batch, changed, beyond, subject.source, context) if beyond and batch is not None else None
    smaller, drawn = _drawn(probe, stage, context, subject.source)
    smaller += _targets(stage, context, probe.run)
    if not found and not drawn and not smaller:
        return Outcome(inconclusive=_nothing(batch))
    if (beyond or smaller) and probe.draws_beyond_dropout:
        return Outcome(inconclusive="the loss draws random numbers other than dropout, and its values differ")
    worst = max((held for _, held in found), key=lambda held: (held.is_beyond, held.measured), default=NONE)
    measured = {"distance": worst.measured, "tensors_changed": len(found)} | ({"batches_drawn": drawn} if drawn else {})
    findings = (*(replace(_finding(name, distance), culprit=line) for name, distance in beyond), *smaller)
    return Outcome(findings, measured, {"distance": worst.allowed})


def _targets(stage: Stage, context: Context, plain: Run) -> list[Finding]:
    """A finding for the first setting under which targets at real tokens read the values at padding."""
    if "value_targets" not in declared(plain):
        return []
    padding = runs_of(stage, context, moves(stage, OF_PADDING))
    masks = [_valid(run, batch).bool() for _, run in padding if (batch := _padded(run))]
    for options, run in runs_of(stage, context, moves(stage, OF_TARGETS)):
        for valid_BS in masks:
            with suppress(Exception):  # with a key moved it is GG414's, without one GG502's
                apart, size = _targets_apart(run, valid_BS, context.seed)
                allowed = OF_VALUES * max(1.0, size)
                if not apart <= allowed:
                    return [_of_targets(apart, allowed, in_words(options))]
    return []


def _targets_apart(run: Run, valid_BS: Tensor, seed: int) -> tuple[float, float]:
    """How far targets at real tokens move where values at padding are others, and the largest of them."""
    generator = torch.Generator().manual_seed(seed)
    one_BS, other_BS = torch.randn((2, *valid_BS.shape), generator=generator, dtype=torch.float64).to(valid_BS.device)
    reward_B = torch.ones(len(valid_BS), dtype=torch.float64, device=valid_BS.device)
    values = one_BS, torch.where(valid_BS, one_BS, LARGE * other_BS)
    ours, theirs = (run.value_targets(reward_B, value_BS, valid_BS)[valid_BS] for value_BS in values)
    return float((ours - theirs).abs().max()), float(ours.abs().max())


def _of_targets(apart: float, allowed: float, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"value targets at real tokens change by {apart:.3g} where values at padding are other numbers{told}; "
        f"allowed: {allowed:.1e}",
        fix="read the next value from the next real token; behind the last one there is none",
        detail={"distance": apart},
    )


def _line(
    probe: Probe,
    batch: Batch,
    changed: list[tuple[str, Batch]],
    beyond: list[tuple[str, Distance]],
    source: Path | None,
    context: Context,
) -> Location | None:
    """The line through which padding comes in, of the first tensor that shows it."""
    name, distance = beyond[0]
    other = dict(changed)[name]
    valid_BS = _valid(probe.run, batch).bool().cpu()
    packed = probe.run.tokens(batch).document_BS if "tokens" in declared(probe.run) else None

    def differs(one: Batch, two: Batch) -> bool:
        ours, theirs = (probe(each).quantities()[distance.quantity] for each in (one, two))
        return not float((ours - theirs).norm()) <= distance.allowed

    tokens = Tokens(torch.zeros_like(valid_BS, dtype=torch.long), valid_BS, packed)
    return leak(probe.run, (batch, other), tokens, ~valid_BS, source, differs, seed=context.seed)


def _nothing(batch: Batch | None) -> str:
    if batch is None:
        return f"{BATCHES} batches have no padding: there is nothing masked to change"
    return (
        "no tensor of the batch that may be changed has the shape [B, S, ...] of its mask: floating numbers, and the "
        "tokens that `Run.tokens` returns"
    )


def _drawn(probe: Probe, stage: Stage, context: Context, source: Path | None) -> tuple[list[Finding], int]:
    """The smallest drawn batch in which something masked is read, and how many were tried."""
    if not can_draw(probe.run):
        return [], 0
    found, tried = smallest(probe.run, partial(_read_at_padding, probe, context.seed), context, SHARE)
    if found is None:
        return [], tried
    changed = list(_changed(probe.run, found.batch, torch.Generator().manual_seed(context.seed)))
    beyond = [(name, held) for name, other in changed if (held := probe.furthest(found.batch, [other])).is_beyond]
    line = _line(probe, found.batch, changed, beyond, source, context) if beyond else None
    return [replace(as_finding(found, CODE, NAME, stage.name, FIX), culprit=line)], tried


def _read_at_padding(probe: Probe, seed: int, batch: Batch) -> Fault | None:
    """What is read at padding of a batch whose losses are numbers; None: nothing."""
    generator = torch.Generator().manual_seed(seed)
    with suppress(SubjectRaisedError):  # what raises, or is not finite, is GG404's to say
        if bool(_valid(probe.run, batch).all()):
            return None
        ours = probe(batch).quantities()
        for name, other in _changed(probe.run, batch, generator):
            theirs = probe(other).quantities()
            if all(torch.equal(value, theirs[key]) for key, value in ours.items()):
                continue  # as it mostly is; what roundoff may do costs three times as much to know
            distance = probe.furthest(batch, [other])
            if distance.is_beyond and math.isfinite(distance.size):
                finding = _finding(name, distance)
                return Fault(finding.message, detail=finding.detail)
    return None


def _padded(run: Run) -> Batch | None:
    """The first of a run's batches that has padding; where none has, one that is padded, if the run can."""
    drawn = list(islice(run.batches(), BATCHES))
    found = next((batch for batch in drawn if not bool(_valid(run, batch).all())), None)
    if found is None and "pad" in declared(run):
        with calling("pad()"):
            return run.pad(drawn[0], PADDING)
    return found


def _valid(run: Run, batch: Batch) -> Tensor:
    with calling("valid()"):
        return run.valid(batch)


def _changed(run: Run, batch: Batch, generator: torch.Generator) -> Iterator[tuple[str, Batch]]:
    """The batch with other numbers at padding, once for each tensor that has any, with that tensor's name."""
    valid_BS = _valid(run, batch)
    token_BS = run.tokens(batch).token_BS if "tokens" in declared(run) else None
    for path, leaf in batches.leaves(batch):
        if not isinstance(leaf, Tensor) or leaf.dim() < 2 or leaf.shape[:2] != valid_BS.shape:
            continue
        other = None
        if batches.is_mask(leaf):
            continue
        if leaf.is_floating_point():
            noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)
            other = leaf + LARGE * noise
        elif token_BS is not None and valid_BS.any() and leaf.dtype == token_BS.dtype and torch.equal(leaf, token_BS):
            real = leaf[valid_BS]
            drawn = torch.randint(0, len(real), leaf.shape, generator=generator).to(leaf.device)
            other = real[drawn]
        if other is not None:
            mask = valid_BS.view(*valid_BS.shape, *[1] * (leaf.dim() - 2))
            yield batches.named(path), batches.replaced(batch, path, torch.where(mask, leaf, other))


def _finding(name: str, distance: Distance) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{distance.quantity} (size {distance.size:.6g}) changes by {distance.measured:.3g} where `{name}` "
        f"holds other numbers at padding; allowed: {distance.allowed:.1e}",
        fix=FIX,
        detail={"tensor": name, "quantity": distance.quantity, "distance": distance.measured},
    )
