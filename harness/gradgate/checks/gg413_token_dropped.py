"""A supervised token has no share in the loss, or a real one none in the value loss.

## What it detects

The last token of every row that no head is trained on, an end-of-text token that is masked since it equals the padding
id, a tail that is lost to a slice or to a mask that is advanced once too often, rows that supervise nothing, an end
token that was never appended, a begin token that is missing, a cut that is one token short, text that does not come
through the tokenizer whole. A value loss under the labels' mask: the last token of a row, which has a value and no
label, is left out.

## Why it matters

What has no share is never learnt: a model that is never trained on its end of text never stops. The loss cannot show
it, since it does not know what it leaves out.

## How it decides

In float64, on 3 batches. The gradient of a cross-entropy with respect to a position's logits is
softmax - onehot(target), so a token has a share in the loss where some head that is to predict it has a gradient with a
negative entry. Which tokens are supervised `Run.supervised` says; where the run has no such method, all real tokens
that some head could predict are, but for those at the beginning of a row or document in front of the first that has a
share: they are taken for a prompt. Where it has none, and most rows have tokens without a share between others with
one, and not always the same token, the loss is taken for one that selects tokens: a warning.
Statistic: supervised tokens without a share, and, where `Run.supervised` says which they are, others with one; allowed:
0.

Where the run says which token ends a row (`Run.end_token`), each row, or document of a packed row, that is shorter than
`Run.max_length` must end with it, in every stage but one of values. Statistic: those that do not; allowed: 0. That it
is trained on is then asked as of every token.

Where the run says what the data have (`Run.sources`), each row, or document, must be one of them, cut at
`Run.max_length` on the side of `Run.cuts`: so that a cut row keeps as many tokens and is given no end that it does not
have. Statistic: those that are not; allowed: 0.

In any stage whose `Stage.edges` say which modules `value_loss` trains: a real token has a share in the value loss where
its value, the module's output at its position, has a gradient; all values are moved by 1/e first, since one that equals
its return has none. Real tokens behind the first of their row with a share
must have one too; those in front of it are taken for a prompt. Where `Run.supervised` says which tokens are trained on,
and the values with a share are those one position in front of these (the value of the state in which a token is
chosen), it is a shift that is meant. Statistic: real tokens without a share; allowed: 0.

The same for runs with a key of `Stage.options` moved, where that makes other batches (rows that are packed or cut
elsewhere) or where `Run.supervised` says otherwise of the same.

Rows or documents of which no token has a share, where the run does not say that any is supervised, are a warning.

False-alarm rate: 0 for losses whose gradient at the logits is that of a weighted cross-entropy, unless a token's
weights are all exactly 0 and meant to be.

## Example

Bad:

```python
valid_BS = token_BS != tokenizer.pad_token_id                            # and pad_token is eos_token
```

Good:

```python
valid_BS = torch.arange(S) < length_B[:, None]                           # the mask says what is real
```

## How to fix

Look at the tokens that the message names: always the last of a row, one and the same token, or everything from some
position on. The first is a shift or a slice, the second a mask by value, the third a length.

## Known limits

What is not in the batch is not seen: rows that the data loader drops are GG612's. Without `Run.supervised` a prompt
that is left out by mistake cannot be told from one that is meant, and later turns of a dialogue that are left out on
purpose are reported, and a prompt that is trained on by mistake is not.

## Sources

Faults DC-06, MB-08, MB-13 and MB-25 of the fault catalogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gradgate.checks import batches as trees
from gradgate.checks import oracles
from gradgate.checks.ahead import ahead
from gradgate.checks.gg412_label_shift import Targets, targets
from gradgate.checks.moved import as_given, in_words, moved
from gradgate.checks.oracle_steps import Step
from gradgate.checks.raised import SubjectRaisedError, calling, reports_raises
from gradgate.checks.row_lines import Again, line_of_places
from gradgate.checks.row_sources import documents, of_ends, of_sources
from gradgate.checks.value_shares import TERM, ValueShares, value_shares
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import Capabilities, declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG413", "token-dropped"
NEEDS: tuple[str, ...] = ("losses",)
OF_TOKENS = ("tokens", "logits")
OF_VALUES = ("valid", "edges")
PER_STAGE = True
BATCHES = 3
SCATTERED = "here and there between others that have one"
_make = partial(Finding, CODE, NAME)


@dataclass(frozen=True)
class Shares:
    """Which tokens of one batch are supervised, and which have a share in its loss.

    Args:
        token_BS: Long[B, S].
        supervised_BS: Bool[B, S].
        shared_BS: Bool[B, S].
        label_BSH: Long[B, S, H], what the tokens that are supervised give each head to predict, -100 elsewhere.
        silent: rows, or documents of rows, of which none has; with their first position.
        every_BSH: Long[B, S, H], what all real tokens give each head to predict.
        valid_BS: Bool[B, S].
    """

    token_BS: Tensor
    supervised_BS: Tensor
    shared_BS: Tensor
    label_BSH: Tensor
    silent: tuple[tuple[int, int], ...]
    every_BSH: Tensor
    valid_BS: Tensor

    @property
    def steps(self) -> tuple[Step, ...]:
        """Masks and labels of a batch that drops no token."""
        horizon = self.label_BSH.shape[-1]
        ahead_BSH, predicts_BSH = ahead(self.supervised_BS, horizon), self.label_BSH != oracles.IGNORED
        return (
            Step("supervised", self.supervised_BS),
            Step("supervised ahead", ahead_BSH),
            Step("has something to predict", predicts_BSH),
            Step("some head has something to predict", predicts_BSH.any(-1)),
            Step("labels", self.label_BSH),
            Step("labels of all real tokens", self.every_BSH),
            Step("real tokens", self.valid_BS),
            Step("real tokens ahead", ahead(self.valid_BS, horizon)),
            Step("some real token is to predict", self.every_BSH != oracles.IGNORED),
            *(Step(f"labels of head {k}", self.label_BSH[..., k]) for k in range(horizon)),
        )

    @property
    def dropped(self) -> Tensor:
        """Bool[B, S]: supervised and without a share."""
        return self.supervised_BS & ~self.shared_BS

    @property
    def kept(self) -> Tensor:
        """Bool[B, S]: supervised and with a share."""
        return self.supervised_BS & self.shared_BS


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read every token's share out of the gradients at the logits, and every value's at the values."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    drawn = list(islice(run.batches(), BATCHES))
    able = Capabilities(subject, context.device)
    hints = able.missing(stage, OF_TOKENS) if stage.objective == "tokens" else ["this stage learns no tokens"]
    value = able.missing(stage, OF_VALUES) or [] if TERM in (stage.edges or {}) else [f"no edge {TERM!r} is declared"]
    ends = hints and run.end_token is not None and "tokens" in declared(run) and stage.objective != "value"
    if hints and value and not ends:
        return Outcome(not_applicable=f"{'; '.join(hints)}; {'; '.join(value)}")
    again = _again(subject, stage, context, {})
    outcomes = [] if hints else [_of_tokens(run, drawn, again)]
    outcomes += [of_ends(run, drawn, again, _make)] if ends else []
    if not hints and not outcomes[0].findings:
        outcomes += _with_options(subject, stage, context, run, drawn)
    outcomes += [] if value else [_of_values(run, drawn, (stage.edges or {})[TERM], again)]
    return _together(outcomes)


def _again(subject: Subject, stage: Stage, context: Context, options: Mapping[str, Any]) -> Again:
    start = partial(stage.start, context.seed, dtype=torch.float64, device=context.device, **as_given(options))
    return Again(start, subject.source, context.seed)


def _with_options(
    subject: Subject, stage: Stage, context: Context, plain: Run, drawn: Sequence[Batch]
) -> Iterator[Outcome]:
    """The findings where a key that is moved makes other batches, or supervises other tokens of the same."""
    for options, run in moved(stage, context):
        told = in_words(options)
        with suppress(SubjectRaisedError):  # with a key moved it is GG414's
            with calling(f"drawing batches{told}"):
                other = list(islice(run.batches(), BATCHES))
            if trees.first_difference(drawn, other) is not None or not _supervise_alike(plain, run, drawn):
                found = _of_tokens(run, other, _again(subject, stage, context, options)).findings
                yield Outcome(tuple(replace(each, message=f"{each.message}{told}") for each in found))


def _supervise_alike(one: Run, other: Run, drawn: Sequence[Batch]) -> bool:
    """Whether two runs say the same of which tokens are to be trained on."""
    if "supervised" not in declared(one):
        return True
    with calling("supervised()"):
        return all(torch.equal(one.supervised(batch), other.supervised(batch)) for batch in drawn)


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome; inconclusive where nothing could be decided."""
    undecided = [outcome.inconclusive for outcome in outcomes if outcome.inconclusive]
    return Outcome(
        tuple(finding for outcome in outcomes for finding in outcome.findings),
        {name: number for outcome in outcomes for name, number in outcome.measured.items()},
        {name: number for outcome in outcomes for name, number in outcome.allowed.items()},
        inconclusive="; ".join(undecided) if len(undecided) == len(outcomes) else "",
    )


def _of_values(run: Run, drawn: Sequence[Batch], modules: Sequence[str], again: Again) -> Outcome:
    """Real tokens that the value loss leaves out."""
    asked = [value_shares(run, batch, modules) for batch in drawn]
    seen = [found for found in asked if found is not None]
    dropped = sum(int(shares.dropped.sum()) for shares in seen)
    real = sum(int(shares.valid_BS.sum()) for shares in seen)
    measured, allowed = {"values_without_share": dropped, "values": real}, {"values_without_share": 0}
    if not seen:
        reason = f"no module of {', '.join(modules)} returned one value a position that the value loss comes from"
        return Outcome((), measured, allowed, inconclusive=reason)
    if not dropped:
        return Outcome((), measured, allowed)
    first = next(shares for shares in seen if shares.dropped.any())
    b, t = first.dropped.nonzero()[0].tolist()
    steps = {n: [Step("real tokens", each.valid_BS)] for n, each in enumerate(asked) if each and each.dropped.any()}
    shares_of = partial(value_shares, modules=modules, states=False)
    finding = _make(
        message=f"{dropped} of {real} real tokens have no share in the value loss, {_where(seen)}; the first is at "
        f"[b, t] = [{b}, {t}]; allowed: 0",
        culprit=line_of_places(again, shares_of, _drops_none, steps, handed=True),
        fix="average the squared error over the real tokens, by the mask: not over the positions that have a label",
        count=dropped,
        detail={"index": [b, t]},
    )
    return Outcome((finding,), measured, allowed)


def _where(seen: Sequence[ValueShares]) -> str:
    """What the dropped values have in common."""
    pairs = [pair for shares in seen for pair in zip(shares.dropped, shares.valid_BS, strict=True) if pair[0].any()]
    if len(pairs) > 1 and all(int(dropped.nonzero()[0]) == int(real.nonzero()[-1]) for dropped, real in pairs):
        return "the last of a row each"
    return f"in {len(pairs)} rows"


def _of_tokens(run: Run, drawn: Sequence[Batch], again: Again) -> Outcome:
    """Supervised tokens that the token loss leaves out."""
    seen = [found for batch in drawn if (found := _shares(run, batch)) is not None]
    supervised = sum(int(shares.supervised_BS.sum()) for shares in seen)
    dropped = sum(int(shares.dropped.sum()) for shares in seen)
    silent = sum(len(shares.silent) for shares in seen)
    measured = {"tokens_without_share": dropped, "tokens_supervised": supervised, "silent_rows": silent}
    allowed = {"tokens_without_share": 0}
    said = "supervised" in declared(run)
    findings = [*_dropped(seen, dropped, supervised, said, again), *_silent(seen, silent)]
    findings += _beyond(run, drawn, seen, again)
    rows = [of_ends(run, drawn, again, _make)] if run.end_token is not None else []
    rows += [of_sources(run, drawn, again, _make)] if "sources" in declared(run) else []
    for outcome in rows:
        findings += outcome.findings
        measured, allowed = {**measured, **outcome.measured}, {**allowed, **outcome.allowed}
    reason = "" if supervised or findings else "no logits [B, S, (H,) V] were seen, or nothing is supervised"
    return Outcome(tuple(findings), measured, allowed, inconclusive=reason)


def _beyond(run: Run, drawn: Sequence[Batch], seen: Sequence[Shares], again: Again) -> Iterator[Finding]:
    """Tokens that have a share and that the run does not say are to be trained on."""
    able = any(shares.supervised_BS.any() for shares in seen)  # where none is, the run's word is what is wrong
    if "supervised" not in declared(run) or len(seen) != len(drawn) or not able:
        return
    beyond = [shares.shared_BS & ~run.supervised(batch).cpu().bool() for batch, shares in zip(drawn, seen, strict=True)]
    count = sum(int(beyond_BS.sum()) for beyond_BS in beyond)
    if count:
        b, t = next(beyond_BS for beyond_BS in beyond if beyond_BS.any()).nonzero()[0].tolist()
        steps = {n: shares.steps for n, shares in enumerate(seen) if beyond[n].any()}
        yield _make(
            message=f"{count} tokens have a share in the loss that are not to be trained on, the first at [b, t] = "
            f"[{b}, {t}]; allowed: 0",
            culprit=line_of_places(again, _shares, partial(_right, drawn=seen), steps),
            fix="count a prompt in tokens, with what stands in front of it",
            count=count,
            detail={"index": [b, t]},
        )


def _shares(run: Run, batch: Batch) -> Shares | None:
    found = targets(run, batch)
    if found is None:
        return None
    shared_BS = _predicted(found.trained_BSH)
    able_BS = _predicted(found.label_BSH != oracles.IGNORED)
    if "supervised" in declared(run):
        with calling("supervised()"):
            return _of(found, able_BS & run.supervised(batch).cpu().bool(), shared_BS, ())
    silent = []
    for b, document in documents(found.tokens):
        sharing = [t for t in document if shared_BS[b, t]]
        begins = sharing[0] if sharing else document[-1] + 1
        if not sharing and any(able_BS[b, t] for t in document):
            silent.append((b, document[0]))
        able_BS[b, [t for t in document if t < begins]] = False
    return _of(found, able_BS, shared_BS, tuple(silent))


def _of(found: Targets, supervised_BS: Tensor, shared_BS: Tensor, silent: tuple[tuple[int, int], ...]) -> Shares:
    ahead_BSH = ahead(supervised_BS, found.label_BSH.shape[-1])
    label_BSH = found.label_BSH.masked_fill(~ahead_BSH, oracles.IGNORED)
    valid_BS = found.tokens.valid_BS.cpu().bool()
    return Shares(found.tokens.token_BS, supervised_BS, shared_BS, label_BSH, silent, found.label_BSH, valid_BS)


def _right(shares: Shares | None, drawn: Sequence[Shares]) -> bool:
    """Whether what has a share is what is supervised, in one of the batches as they were drawn."""
    if shares is None or not torch.equal(shares.supervised_BS, shares.shared_BS):
        return False
    return any(
        torch.equal(shares.token_BS, one.token_BS) and torch.equal(shares.supervised_BS, one.supervised_BS)
        for one in drawn
    )


def _drops_none(shares: Shares | ValueShares | None) -> bool:
    """Whether there is something that should have a share, and all of it has one."""
    return shares is not None and bool(shares.kept.any()) and not bool(shares.dropped.any())


def _predicted(place_BSH: Tensor) -> Tensor:
    """Bool[B, S]: the tokens t + k + 1 of places [b, t, k]."""
    rows, positions, horizon = place_BSH.shape
    token_BS = torch.zeros(rows, positions + horizon, dtype=torch.bool)
    for k in range(horizon):
        token_BS[:, k + 1 : positions + k + 1] |= place_BSH[..., k]
    return token_BS[:, :positions]


def _dropped(seen: list[Shares], dropped: int, supervised: int, said: bool, again: Again) -> Iterator[Finding]:
    if not dropped:
        return
    what = _what(seen)
    steps = {n: shares.steps for n, shares in enumerate(seen) if shares.dropped.any()}
    first = next(shares for shares in seen if shares.dropped.any())
    b, t = first.dropped.nonzero()[0].tolist()
    yield _make(
        severity="error" if said or what != SCATTERED else "warning",
        message=f"{dropped} of {supervised} supervised tokens have no share in the loss, {what}; the first is "
        f"token {int(first.token_BS[b, t])} at [b, t] = [{b}, {t}]; allowed: 0",
        culprit=line_of_places(again, _shares, partial(_right, drawn=seen) if said else _drops_none, steps),
        fix="let some head predict every supervised token: look at shifts, slices and masks between labels and loss",
        count=dropped,
        detail={"index": [b, t], "token_S": first.token_BS[b].tolist()},
    )


def _what(seen: list[Shares]) -> str:
    """What the dropped tokens have in common."""
    values = Counter(int(token) for shares in seen for token in shares.token_BS[shares.dropped])
    rows = [row for shares in seen for row in zip(shares.dropped, shares.supervised_BS, strict=True) if row[0].any()]
    if len(rows) > 1 and all(int(dropped.nonzero()[0]) == int(asked.nonzero()[-1]) for dropped, asked in rows):
        return "the last of a row each"
    if len(values) == 1 and values.total() > 1:
        return "one and the same token each"
    selects = sum(_is_between(dropped, asked & ~dropped) for dropped, asked in rows)
    return SCATTERED if len(rows) > 1 and 2 * selects > len(rows) else f"in {len(rows)} rows"


def _is_between(dropped_S: Tensor, shared_S: Tensor) -> bool:
    """Whether a token is dropped that stands between two that are not."""
    places = shared_S.nonzero()[:, 0].tolist()
    return len(places) > 1 and bool(dropped_S[places[0] : places[-1]].any())


def _silent(seen: list[Shares], silent: int) -> Iterator[Finding]:
    if not silent:
        return
    b, t = next(shares.silent[0] for shares in seen if shares.silent)
    yield _make(
        severity="warning",
        message=f"{silent} rows or documents have no token with a share in the loss, the first at [b, t] = [{b}, {t}]",
        fix="drop rows that supervise nothing, or say with `Run.supervised` what they should supervise",
        count=silent,
    )
