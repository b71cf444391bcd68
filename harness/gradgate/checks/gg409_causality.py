"""A later token, or another packed document, influences a prediction, beyond the declared labels.

## What it detects

Attention without a causal mask, or with one that is shifted by a position, or that lets packed documents see one
another; a convolution or a pooling that sees the whole row; a feature of the row (its length, its mean, its last token)
that every position is given; logits that are read one position late.

## Why it matters

A model that sees what it is to predict has a training and a held-out loss that fall beautifully, and generates rubbish.

## How it decides

In float64, without dropout, on 2 batches of the run, and 3 of those that its `strategy` draws with padding in front of
real tokens (rows padded on the right want no mask, and may never have met one): all real tokens from position c on are
replaced by other tokens of the batch, for several c, and the loss is computed again. Statistic: the largest change of a
logit [b, t, k] with t < c and a real token at t, of the module that `Run.logits_from` names. Where c <= t + k + 1 the
head saw its own target or what comes behind it: a finding. Where the changed tokens lie between t and the target, the
head is fed with the tokens in between, as modules of sequential multi-token prediction are: a warning, since it is
right there and a leak with parallel heads. The message names the first module, in the order of the forward pass, whose
output at earlier positions changed. Of the run's batches, and 40 that its `strategy` draws, the first 4 with two
documents in a row are looked at too: where the tokens of the first document are others, no logit of another one may
change.

Tolerance, derived: computing a sum of n terms in other blocks changes each term by at most n u of itself (u = 2**-53).
The condition is measured: the noise is the largest change of a logit under 3 random changes of every parameter by 2 u.
Allowed: 2 n (noise + u |logit|), with n the number of elements of the batch's largest tensor.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
mixed = scaled_dot_product_attention(q, k, v)                             # every position sees the whole row
```

Good:

```python
mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
```

## How to fix

Mask at the module that the message names. With a mask of one's own beside it, `is_causal` is not in force.

## Known limits

Only what follows from the batch's tensor of tokens is seen, and only the logits are judged: a value head may look
ahead. Labels and features that the batch brings along stay as they are. Batch norm over positions is reported.

## Sources

Fault MB-02 and the null-model floor of the fault catalogue; Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks import batches
from gradgate.checks.drawing import can_draw
from gradgate.checks.invariance import Casts, elements, perturbed
from gradgate.checks.leaks import leak as line_of_leak
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.switches import Again
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject, Tokens
from gradgate.subjects.outputs import are_of_heads, by_head, logits_in

CODE, NAME = "GG409", "causality"
NEEDS: tuple[str, ...] = ("tokens", "logits", "losses")
PER_STAGE = True
AGAIN = Again()
OBJECTIVE = "tokens"
BATCHES = 2
DRAWN, PACKED = 40, 4  # batches that are drawn, and how many packed ones of them are looked at
MASKED = 3  # drawn batches with padding in front of real tokens that are looked at, where attention wants a mask
CUTS = {"quick": 4, "pr": 16, "nightly": 1000}
SEEN = 1e-10  # share of a module's largest output whose change names it; what is judged has its own bound

Outputs = dict[str, Tensor]  # module name -> output [B, S, ...], in the order of the forward pass


@dataclass(frozen=True, slots=True)
class Leak:
    """The largest change of earlier logits under one change of later tokens.

    Args:
        cut: first position whose token was replaced.
        index: b, t, k of the logit.
        change: how much it changed.
        allowed: what roundoff may do.
        sees_target: whether nothing but the head's target and what is behind it was replaced.
        module: where it shows first.
        culprit: the line through which it leaks.
    """

    cut: int
    index: tuple[int, int, int]
    change: float
    allowed: float
    sees_target: bool
    module: str
    culprit: Location | None = None


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Replace what comes later, and compare what came earlier."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    leaks: list[Leak] = []
    effects = 0.0
    drawn, again = tee(_drawn(run))
    # What computes rows that are padded on the right may never see a mask.
    masked = islice((batch for batch in drawn if _has_padding_in_front(run.tokens(batch))), MASKED)
    for batch in chain(islice(run.batches(), BATCHES), masked):
        found, effect = _of_batch(run, batch, context, subject.source)
        leaks += found
        effects = max(effects, effect)
    if not leaks:
        return Outcome(inconclusive=f"the logits of {BATCHES} batches are no one tensor [B, S, (H,) V], or tokens "
                                    "are no tensor of the batch")  # fmt: skip
    if effects == 0:
        return Outcome(inconclusive="other tokens change no logit at all: are they computed beforehand?")
    apart = _between_documents(run, again, context, subject.source)
    worst = max(leaks, key=_share)
    kinds = [
        max((leak for leak in leaks if leak.sees_target == own), key=_share, default=None) for own in (True, False)
    ]
    findings = tuple(_finding(leak) for leak in kinds if leak is not None and not leak.change <= leak.allowed)
    measured = {"change": worst.change, "cuts": len(leaks)}
    allowed = {"change": worst.allowed}
    if apart is not None:
        measured["change_by_another_document"], allowed["change_by_another_document"] = apart.change, apart.allowed
        if not apart.change <= apart.allowed:
            findings = (*findings, _crossing(apart))
    return Outcome(findings, measured, allowed)


def _share(leak: Leak) -> float:
    return leak.change / leak.allowed if leak.change == leak.change else torch.inf


def _of_batch(run: Run, batch: Batch, context: Context, source: Path | None) -> tuple[list[Leak], float]:
    """Two leaks at most for each cut and tensor of tokens, and the largest change of any logit at or behind a cut."""
    with calling("tokens()"):
        tokens = run.tokens(batch)
    paths = [path for path, leaf in batches.leaves(batch) if _is_tokens(leaf, tokens)]
    before = _outputs(run, batch, context.seed)
    logits = _logits(run, before, tokens)
    if logits is None or not paths:
        return [], 0.0
    allowed = _allowed(run, batch, logits, context.seed)
    padded_BS1 = ~tokens.valid_BS.cpu().bool().unsqueeze(-1)  # what padding computes reaches nothing
    generator = torch.Generator().manual_seed(context.seed)
    leaks: list[Leak] = []
    effect, looked_for = 0.0, False
    for cut in _cuts(tokens.token_BS.shape[1], CUTS[context.profile]):
        other_BS = _replaced(tokens, cut, generator)
        for path in paths:
            after = _outputs(run, batches.replaced(batch, path, other_BS), context.seed)
            changed = _logits(run, after, tokens)
            if changed is None:
                continue
            change_BSH = (changed - logits).abs().amax(-1).masked_fill(padded_BS1, 0.0)
            effect = max(effect, float(change_BSH[:, cut:].max()))
            module = _first_changed(before, after, cut)
            found = [_leak(change_BSH, cut, own, allowed, module) for own in (True, False)]
            if not looked_for and any(not leak.change <= allowed for leak in found):
                looked_for = True
                later_BS = (torch.arange(tokens.token_BS.shape[1]) >= cut).expand(tokens.token_BS.shape)
                other = batches.replaced(batch, path, other_BS)
                at = _line(run, (batch, other), tokens, later_BS, allowed, context, source)
                found = [replace(leak, culprit=at) for leak in found]
            leaks += found
    if looked_for:
        at = next((leak.culprit for leak in leaks if leak.culprit), None)
        leaks = [replace(leak, culprit=at) for leak in leaks]
    return leaks, effect


def _line(
    run: Run,
    pair: tuple[Batch, Batch],
    tokens: Tokens,
    changed_BS: Tensor,
    allowed: float,
    context: Context,
    source: Path | None,
) -> Location | None:
    """The line through which changed tokens reach logits of positions that were not."""

    def differs(batch: Batch, other: Batch) -> bool:
        first, second = (_logits(run, _outputs(run, one, context.seed), tokens) for one in (batch, other))
        if first is None or second is None:
            return True
        return not bool(((first - second).abs().amax((-2, -1))[~changed_BS] <= allowed).all())

    return line_of_leak(run, pair, tokens, changed_BS, source, differs, seed=context.seed)


def _between_documents(run: Run, drawn: Iterable[Batch], context: Context, source: Path | None) -> Leak | None:
    """The largest change of a logit where an earlier document of the row has other tokens; None: nothing is packed."""
    candidates = chain(islice(run.batches(), BATCHES), drawn)
    packed = (batch for batch in candidates if _first_document(run.tokens(batch)).any())
    found = (_crossed(run, batch, context, source) for batch in islice(packed, PACKED))
    return max((leak for leak in found if leak is not None), key=_share, default=None)


def _crossed(run: Run, batch: Batch, context: Context, source: Path | None) -> Leak | None:
    tokens = run.tokens(batch)
    first_BS = _first_document(tokens)
    before = _outputs(run, batch, context.seed)
    logits = _logits(run, before, tokens)
    path = next((path for path, leaf in batches.leaves(batch) if _is_tokens(leaf, tokens)), None)
    if logits is None or path is None:
        return None
    other_BS = torch.where(first_BS, _replaced(tokens, 0, torch.Generator().manual_seed(context.seed)), tokens.token_BS)
    other = batches.replaced(batch, path, other_BS)
    changed = _logits(run, _outputs(run, other, context.seed), tokens)
    if changed is None:
        return None
    judged_BS = tokens.valid_BS.bool() & ~first_BS & first_BS.any(1, keepdim=True)
    change_BSH = (changed - logits).abs().amax(-1).masked_fill(~judged_BS.cpu().unsqueeze(-1), 0.0)
    flat = torch.tensor(int(change_BSH.nan_to_num(nan=torch.inf).argmax()))
    b, t, k = (int(axis) for axis in torch.unravel_index(flat, change_BSH.shape))
    change, allowed = float(change_BSH[b, t, k]), _allowed(run, batch, logits, context.seed)
    at = None
    if not change <= allowed:
        apart_BS = ~judged_BS.cpu()  # also what may differ by itself: padding, and the changed document
        at = _line(run, (batch, other), tokens, apart_BS, allowed, context, source)
    return Leak(t, (b, t, k), change, allowed, True, "", at)


def _drawn(run: Run) -> Iterator[Batch]:
    """Batches of the run's strategy, where it has one."""
    if can_draw(run):
        from gradgate.subjects.drawn import sampled  # imports hypothesis

        yield from islice(sampled(run.strategy()), DRAWN)


def _has_padding_in_front(tokens: Tokens) -> bool:
    valid_BS = tokens.valid_BS.bool()
    return bool((valid_BS[:, 1:] & ~valid_BS[:, :-1]).any())


def _first_document(tokens: Tokens) -> Tensor:
    """Bool[B, S], True at the real tokens of a row's first document, where the row has another one."""
    valid_BS = tokens.valid_BS.bool()
    if tokens.document_BS is None or not valid_BS.any():
        return torch.zeros_like(valid_BS)
    places_BS = valid_BS.long().cumsum(1)
    first_B1 = tokens.document_BS.gather(1, (places_BS == 1).long().argmax(1, keepdim=True))
    first_BS = valid_BS & (tokens.document_BS == first_B1)
    return first_BS & (valid_BS & ~first_BS).any(1, keepdim=True)


def _leak(change_BSH: Tensor, cut: int, sees_target: bool, allowed: float, module: str) -> Leak:
    """The largest change among the earlier logits whose target was replaced, or among those whose target was not."""
    _, positions, heads = change_BSH.shape
    t_S1, k_1H = torch.arange(positions)[:, None], torch.arange(heads)[None]
    at_SH = (t_S1 < cut) & ((cut >= t_S1 + k_1H + 1) == sees_target)
    judged_BSH = change_BSH.masked_fill(~at_SH, 0.0)
    flat = int(judged_BSH.nan_to_num(nan=torch.inf).argmax())
    index = tuple(int(axis) for axis in torch.unravel_index(torch.tensor(flat), judged_BSH.shape))
    return Leak(cut, index, float(judged_BSH[index]), allowed, sees_target, module)  # type: ignore[arg-type]


def _is_tokens(leaf: Any, tokens: Tokens) -> bool:
    token_BS = tokens.token_BS
    return isinstance(leaf, Tensor) and leaf.dtype == token_BS.dtype and torch.equal(leaf, token_BS)


def _cuts(positions: int, count: int) -> list[int]:
    """At most `count` positions from 1 to S - 1, evenly spread, both ends among them."""
    if positions - 1 <= count:
        return list(range(1, positions))
    return sorted({1 + round(i * (positions - 2) / (count - 1)) for i in range(count)})


def _replaced(tokens: Tokens, cut: int, generator: torch.Generator) -> Tensor:
    """The tokens with every real one from `cut` on replaced by another real token of the batch, if there is one."""
    token_BS, valid_BS = tokens.token_BS, tokens.valid_BS.bool()
    known = token_BS[valid_BS].unique().cpu()
    rank_BS = torch.searchsorted(known, token_BS.cpu().clamp(max=int(known.max())))
    shift_BS = torch.randint(1, max(len(known), 2), token_BS.shape, generator=generator)
    other_BS = known[(rank_BS + shift_BS) % len(known)].to(token_BS)
    later_BS = valid_BS & (torch.arange(token_BS.shape[1], device=token_BS.device) >= cut)
    return torch.where(later_BS, other_BS, token_BS)


def _outputs(run: Run, batch: Batch, seed: int) -> Outputs:
    with seeded(seed), without_dropout(), _recorded(run) as seen, calling("losses()"):
        run.losses(batch)
    return seen


@contextmanager
def _recorded(run: Run) -> Iterator[Outputs]:
    """The last output of every module of the block that is a tensor [B, S, ...], begins with one or has logits."""
    seen: Outputs = {}

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        first = logits_in(tuple(output) if isinstance(output, list) else output)
        if first is not None and first.dim() >= 2:
            seen[name] = first.detach().clone()

    with ExitStack() as stack:
        for name, module in run.modules.items():
            for key, part in module.named_modules(prefix=name):
                stack.callback(part.register_forward_hook(partial(note, key)).remove)
        yield seen


def _logits(run: Run, outputs: Outputs, tokens: Tokens) -> Tensor | None:
    """Double[B, S, H, V] of the module that the run names; an axis of one head is added where there is none."""
    found = outputs.get(str(run.logits_from))
    if found is None or found.shape[:2] != tokens.token_BS.shape or not are_of_heads(found):
        return None
    return by_head(found).double().cpu()


def _allowed(run: Run, batch: Batch, logits: Tensor, seed: int) -> float:
    parameters = [parameter for parameter in named_parameters(run) if parameter.is_floating_point()]
    with seeded(seed), without_dropout(), calling("losses()"), Casts() as casts:
        run.losses(batch)
    noise = 0.0
    for _ in perturbed(parameters, seed, 2 * casts.unit):
        moved = _outputs(run, batch, seed)[str(run.logits_from)].double().cpu()
        noise = max(noise, float((moved.reshape(logits.shape) - logits).abs().max()))
    unit: float = casts.unit
    return 2 * elements(batch) * (noise + unit * float(logits.abs().max()))


def _first_changed(before: Outputs, after: Outputs, cut: int) -> str:
    """The module that is first in the forward pass to give other numbers at positions before `cut`; empty: none."""
    for name, old in before.items():
        new = after.get(name)
        if new is None or new.shape != old.shape or old.shape[1] <= cut or not old.is_floating_point():
            continue
        change = float((new[:, :cut] - old[:, :cut]).abs().max())
        if not change <= SEEN * float(old.abs().max()):
            return name
    return ""


def _finding(leak: Leak) -> Finding:
    b, t, k = leak.index
    what = "its own target or a later token" if leak.sees_target else f"tokens between it and its target t+{k + 1}"
    where = f"; it shows first in the output of `{leak.module}`" if leak.module else ""
    return Finding(
        code=CODE,
        name=NAME,
        severity="error" if leak.sees_target else "warning",
        message=f"head {k} at t = {t} reads {what}: a logit changes by {leak.change:.3g} where the tokens from "
        f"{leak.cut} on are others; allowed: {leak.allowed:.1e}{where}",
        culprit=leak.culprit,
        fix="mask attention causally, and give a position nothing that is computed from the row behind it",
        detail={"index": [b, t, k], "cut": leak.cut, "change": leak.change, "module": leak.module},
    )


def _crossing(leak: Leak) -> Finding:
    b, t, k = leak.index
    return Finding(
        code=CODE,
        name=NAME,
        message=f"head {k} at t = {t} reads another document of its row: a logit changes by {leak.change:.3g} where "
        f"that one's tokens are others; allowed: {leak.allowed:.1e}",
        culprit=leak.culprit,
        fix="let attention, and whatever else mixes positions, stay inside a document",
        detail={"index": [b, t, k], "change": leak.change},
    )
