"""The loss does not scale as a mean must: with the weights, with the batch, or under accumulation.

## What it detects

A sum where a mean was meant, a division by a constant; micro-batches that are each divided by their own count, or not
divided at all; weights whose scale a later renormalisation cancels, or that are counted instead of summed.

## Why it matters

The learning rate then depends on how long rows are, how many share a batch and into how many micro-batches it is cut.
Nothing raises; runs with other settings are just no longer comparable.

## How it decides

In float64, at one point, without dropout. Statistic: the distance of loss terms and gradients in three relations.

* Batch: the same batch with every row twice (`Run.select_rows`) has the same terms and gradients. The line that is
  named is the one at which the loss term is made: its divisor, mostly, and where a function that has the term's count
  in hands takes it undivided from another, that one's.
* Accumulation, where the run has `window`: one step on the batch as a whole, on its rows one by one, and on a short and
  a long part give the optimizer the same gradient. Clipping is kept out of the comparison: every backward starts from
  2**-30, which is exact and too small to be clipped. Where the rows are not independent (GG407: whitening over the
  batch, pairs), the parts are a warning, and the batch twice must have the gradient of the batch. Without `window`,
  where a key of `Stage.options` or `Stage.neutral` says of how many micro-batches an update is made (`accum` is in its
  name, or it ends in `micro_batches`, `micro_steps` or `batches_per_update`; its values are whole numbers): the first
  update with the key at 1 has the gradient of the first with the key at n, on the batch n times where n steps make an
  update (some may only collect), on the batch once where the trainer cuts it. With n steps, n
  parts of the batch give another gradient where each is divided by its own count: a warning, since a step cannot know
  what comes behind it. Not looked at: runs in which a step without an update changes the loss of the next one.
* Counts, where the subject has `functions.value_loss` or `functions.loss`, whose terms are means: in the stage's own
  loss each of N values counts 1/N (half the second derivative at the value; of a loss that is straight far away, as
  Huber's and the smooth L1 are, all of it, or the slope there), and the weights of each of N positions sum to 1/N
  (read out of softmax - onehot at the logits). Statistic: the largest |N share - 1|; allowed: 1/(4 N), since a count
  that is one off gives 1/(N + 1). Where it fails of positions, those at which all heads have a share say whether it is
  the divisor or the weights: there these sum to 1 also where a softmax goes over invalid heads. The same with each key
  of `Stage.options` moved. Without these functions, shares that are all 1/M for a whole number M that is neither N, nor
  the rows, nor a multiple or a part of N, are a warning. A factor that the configuration knows is none of the term's:
  where `Run.coefficients` says it, `total` is that sum of the terms, to 1e-5.
* Weights, where the subject has `functions.loss` and the stage learns tokens: the loss is linear in the weights, all of
  them (times 2) and those of one position (times 3).

Running statistics of the data, such as a mean of rewards that each batch moves before it is used, are held still.

Tolerance, derived: reordering a sum of n terms, or computing it in other blocks, is a change of each term by at most n
u of itself (u = 2**-53). The condition is measured: the noise is the largest change of the quantity under 3 random
changes of every parameter by 2 u. Allowed: 2 n (noise + u |quantity|), with n the number of elements of the batch's
largest tensor. For the loss as a function of weights that sum to 1 at most: 4 times (two losses, one of them times 3)
the worst case of a weighted mean of cross-entropies, 2 u (8 L + V + 4 + (N H + 4)(2 L + log V)) for N positions with a
head and logits up to L.

False-alarm rate: 0: the bounds are worst cases to first order, doubled.

## Example

Bad:

```python
for micro in window:
    (loss_sum(micro) / micro.tokens / len(window)).backward()            # a mean of means: short ones count more
```

Good:

```python
tokens = sum(micro.tokens for micro in window)
for micro in window:
    (loss_sum(micro) / tokens).backward()
```

## How to fix

Divide each term by its own count over everything that one update sees, and by nothing else.

## Known limits

That rows of one batch count by their tokens and not equally is not judged without `window`. Gradient accumulation that
neither the run nor a key offers is not looked at (the measured numbers say so). A backward that does not go through
`torch.autograd.backward` may be clipped, and then only its direction is compared.

## Sources

Faults LW-05, LW-07, LW-10, LW-34 and OS-16 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.checks import cases, mean_shares, oracles, tolerances
from gradgate.checks.count_lines import Asked, Shared, line_of_divisor, line_of_shares, line_of_term
from gradgate.checks.formula_calls import Call, present
from gradgate.checks.formulas import Ledger
from gradgate.checks.invariance import Distance, Probe, rows_of
from gradgate.checks.moved import in_words, plain_and_moved
from gradgate.checks.own_lines import named
from gradgate.checks.raised import SubjectRaisedError, calling, reports_raises
from gradgate.checks.row_coupling import are_coupled
from gradgate.checks.running_statistics import without_running_statistics
from gradgate.checks.split_batches import NoUpdateError, Split, come_twice, splits_of
from gradgate.checks.value_shares import TERM
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import Capabilities
from gradgate.subjects.contract import Batch, Context, Functions, Stage, Subject
from gradgate.subjects.settings import Guessed, is_of_accumulation

CODE, NAME = "GG410", "loss-scale"
NEEDS: tuple[str, ...] = ("losses", "rows")
PER_STAGE = True
SMALL = 2.0**-30
WHOLE, ONE_POSITION = 2.0, 3.0
CASES = 20
ALLOWED = 1e-5  # of the largest term: terms may be float32
FIX = "divide each term by its own count over all rows and micro-batches of an update, and by nothing else"
FAR_FROM_ONE = 0.25  # of a count
FIX_WEIGHTS = "sum(weight * cross_entropy) / positions: no renormalisation by the weights, no count of non-zero ones"


@dataclass(frozen=True, slots=True)
class _Count:
    """What every token counts in a term.

    Args:
        moved: which key was moved from its first value, in words; empty: none.
        shares: what each counts.
        again: asks for them anew, and for the term.
        rows: of the batch, where nothing says that the term is a mean.
    """

    moved: str
    shares: mean_shares.Shares
    again: Asked
    rows: int = 0

    @property
    def is_off(self) -> bool:
        if self.rows:
            return mean_shares.is_another_count(self.shares, self.rows)
        return not mean_shares.are_alike(self.shares)

    def line(self, source: Path | None) -> Location | None:
        """The line of a wrong divisor; where tokens do not count alike, that of weights that should sum to 1."""
        number = len(self.shares.share_N)
        if self.shares.spread > 1 / (4 * number) and self.shares.shape:
            return line_of_shares(self.again.asked, mean_shares.are_alike, self.shares.shape, source)
        return line_of_divisor(partial(self.again.term, self.shares.term), number, source)


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Double the batch, cut it into micro-batches, scale the weights."""
    probe = Probe(stage, context, with_total=True)
    batches = probe.batches(2)
    if not rows_of(batches[0]):
        return Outcome(inconclusive="the batch has no rows")
    judge = partial(_judged, subject, stage, context, probe, batches[0])
    return without_running_statistics(probe.run, batches, context.seed, judge)


def _judged(subject: Subject, stage: Stage, context: Context, probe: Probe, batch: Batch) -> Outcome:
    rows = list(range(rows_of(batch)))
    with calling("select_rows()"):
        doubled = probe.run.select_rows(batch, [*rows, *rows])
    worst = probe.furthest(batch, [doubled])
    counts = list(_means(subject, stage, probe, context, batch))
    findings = [_doubled(worst, _divisor(worst, counts, probe, batch, subject.source))] if worst.is_beyond else []
    measured: dict[str, Any] = {"distance": worst.measured}
    allowed: dict[str, Any] = {"distance": worst.allowed}
    try:
        splits = splits_of(probe, stage, context, batch, rows)
    except NoUpdateError as none:
        findings.append(Finding(CODE, NAME, f"{none}; allowed: one", fix="step once the micro-batches are all there"))
        splits = []
    if splits is None:
        measured["accumulation"] = f"not looked at: {Subject.CAPABILITIES['window']}"
    else:
        beyond = [split for split in splits if split.distance.is_beyond]
        coupled = bool(beyond) and not beyond[0].settings and are_coupled(probe, batch)
        for each in [*([come_twice(probe, stage, context, batch, rows)] if coupled else []), *beyond]:
            if each.distance.is_beyond:
                line = partial((beyond[0] if coupled else each).line, subject.source)
                findings.append(named(_split(each, rows, coupled=coupled), line, context.seed))
        measured["accumulation"] = max((split.distance.measured for split in splits), default=0.0)
        allowed["accumulation"] = max((split.distance.allowed for split in splits), default=0.0)
    for term in dict.fromkeys(count.shares.term for count in counts):
        of_term = [count for count in counts if count.shares.term == term]
        worst_count = max(of_term, key=lambda count: count.shares.distance * len(count.shares.share_N))
        first = next((count for count in of_term if count.is_off), None)
        measured[term], allowed[term] = worst_count.shares.distance, 0.25 / len(worst_count.shares.share_N)
        if first is not None:
            findings.append(named(_miscounted(first), partial(first.line, subject.source), context.seed))
    if probe.run.coefficients is not None:
        findings += _summed(probe, batch, probe.run.coefficients, subject.source)
    if any(finding.severity == "error" for finding in findings) and probe.draws_beyond_dropout:
        return Outcome(inconclusive="the loss draws random numbers other than dropout, and its values differ")
    if subject.functions.loss is None or stage.objective == "value":
        return Outcome(tuple(findings), measured, allowed)
    linear = _weights(subject, context).outcome("weights_nats")
    return Outcome((*findings, *linear.findings), {**measured, **linear.measured}, {**allowed, **linear.allowed})


@reports_raises(CODE, NAME)
def check_total(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold the total of a batch against its terms alone."""
    probe = Probe(stage, context)
    (batch,) = probe.batches(1)
    return Outcome(tuple(_summed(probe, batch, probe.run.coefficients or {}, subject.source)))


def _means(subject: Subject, stage: Stage, probe: Probe, context: Context, batch: Batch) -> Iterator[_Count]:
    """What every token counts in the stage's own terms, as it is and with each key of its options moved."""
    able, functions = Capabilities(subject, context.device), subject.functions
    valued = TERM in (stage.edges or {}) and not able.missing(stage, ("valid",))
    weighted = stage.objective == "tokens" and not able.missing(stage, ("logits",))
    asked: dict[Shared, bool] = {}  # and whether it is declared to be a mean
    if valued:
        modules = (stage.edges or {})[TERM]
        asked[partial(mean_shares.of_values, modules=modules, seed=context.seed)] = functions.value_loss is not None
    if weighted:
        declares = functions.loss is not None and functions.weights is not None
        asked[partial(mean_shares.of_positions, seed=context.seed)] = declares
    for ask in (ask for ask, declares in asked.items() if not declares):
        shares = ask(probe.run, batch)
        if shares is not None:
            yield _Count("", shares, Asked(probe.run, batch, context.seed, ask), rows_of(batch))
    asks = [ask for ask, declares in asked.items() if declares]
    runs = plain_and_moved(probe.run, stage, context) if asks else ()
    for options, run in ((options, run) for options, run in runs if _keeps_means(stage, options)):
        with suppress(SubjectRaisedError) if options else nullcontext():  # with a key moved it is GG414's
            with calling(f"drawing a batch{in_words(options)}"):
                own = batch if run is probe.run else next(iter(run.batches()))
            found = [(ask, ask(run, own)) for ask in asks]
            yield from (
                _Count(in_words(options), shares, Asked(run, own, context.seed, ask))
                for ask, shares in found
                if shares is not None
            )


def _keeps_means(stage: Stage, options: Mapping[str, Any]) -> bool:
    """Whether terms are declared to be means with these keys, too: of the parts of an update, and of a form of the loss
    or the weights that nobody listed, they are not."""
    return not any(
        is_of_accumulation(key) or (isinstance(value, str) and isinstance((stage.options or {})[key], Guessed))
        for key, value in options.items()
    )


def _divisor(
    worst: Distance, counts: Sequence[_Count], probe: Probe, batch: Batch, source: Path | None
) -> Location | None:
    """Where the term of a quantity is made that changes with the batch."""
    known = (len(count.shares.share_N) for count in counts if not count.moved and count.shares.term == worst.term)
    return line_of_term(probe.run, batch, probe.seed, worst.term, source, next(known, None))


def _weights(subject: Subject, context: Context) -> Ledger:
    """Hold the loss with scaled weights against what a function that is linear in them must give."""
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    for case in cases.ragged(context.seed, CASES, gaps=subject.functions.gaps):
        valid_BSH = case.labels != oracles.IGNORED
        places = valid_BSH.any(-1).nonzero()
        if not len(places):
            continue
        rng = torch.Generator().manual_seed(context.seed)
        logits_BSHV = torch.randn(*valid_BSH.shape, case.token_BS.numel(), generator=rng, dtype=torch.float64)
        weight_BSH = torch.rand(valid_BSH.shape, generator=rng, dtype=torch.float64) * valid_BSH
        weight_BSH = weight_BSH / weight_BSH.sum(-1, keepdim=True).clamp(min=1.0)
        alone_BSH = torch.zeros_like(weight_BSH)
        b, t = places[0].tolist()
        alone_BSH[b, t] = weight_BSH[b, t]
        ask = partial(_call, subject.functions, case, logits_BSHV)
        base, one = (ledger.run(ask(weights), (), FIX_WEIGHTS) for weights in (weight_BSH, alone_BSH))
        if base is None or one is None:
            continue
        allowed = (1 + ONE_POSITION) * tolerances.loss(logits_BSHV, len(places))
        for what, weights, expected in (
            ("the loss with all weights doubled", WHOLE * weight_BSH, WHOLE * base),
            (
                "the loss with one position's weights tripled",
                weight_BSH + (ONE_POSITION - 1) * alone_BSH,
                base + (ONE_POSITION - 1) * one,
            ),
        ):
            call = ask(weights)
            answer = ledger.run(call, (), FIX_WEIGHTS)
            if answer is not None:
                ledger.compare(call, answer, expected, allowed, what=what, unit="nats", fix=FIX_WEIGHTS)
    return ledger


def _call(functions: Functions, case: cases.Case, logits_BSHV: Tensor, weight_BSH: Tensor) -> Call:
    arguments = {"logits_BSHV": logits_BSHV, "label_BSH": case.labels, "weight_BSH": weight_BSH}
    return Call("loss", present(functions.loss), case.describe(), arguments)


def _doubled(worst: Distance, culprit: Location | None) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{worst.quantity} (size {worst.size:.6g}) changes by {worst.measured:.3g} where the batch holds every "
        f"row twice; allowed: {worst.allowed:.1e}",
        culprit=culprit,
        fix=FIX,
        detail={"quantity": worst.quantity, "distance": worst.measured},
    )


def _miscounted(count: _Count) -> Finding:
    shares, number = count.shares, len(count.shares.share_N)
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{shares.term}` has {number} {shares.unit} in it and counts one of them as in a mean over "
        f"{shares.divisor:.6g}{count.moved}; allowed: {number}, to a quarter{_of_whole(shares)}",
        severity="warning" if count.rows else "error",
        fix=FIX,
        detail={"counted": number, "divisor": shares.divisor},
    )


def _of_whole(shares: mean_shares.Shares) -> str:
    """What the divisor is where all heads are in a share: whether it is that, or the weights, that is wrong."""
    whole, number = shares.whole_divisor, len(shares.share_N)
    if whole is None or abs(whole - shares.divisor) < FAR_FROM_ONE:
        return ""
    is_right = abs(whole - number) < FAR_FROM_ONE
    told = "so it is the weights that do not sum to 1" if is_right else "which is the divisor, and wrong as well"
    return f"; where all heads have a share it is a mean over {whole:.6g}, {told}"


def _summed(probe: Probe, batch: Batch, coefficients: Mapping[str, float], source: Path | None) -> Iterator[Finding]:
    """A total that is not the sum of its terms, each times what it is declared to be multiplied by."""
    terms = probe(batch).terms
    expected = sum(factor * terms.get(name, 0.0) for name, factor in coefficients.items())
    if abs(terms["total"] - expected) <= ALLOWED * max(map(abs, terms.values())):
        return
    told = " + ".join(f"{factor:g} * `{name}`" for name, factor in coefficients.items())
    yield Finding(
        code=CODE,
        name=NAME,
        message=f"`total` is {terms['total']:.9g}, and {told} is {expected:.9g}; allowed: {ALLOWED:g} apart",
        culprit=line_of_term(probe.run, batch, probe.seed, "total", source),
        fix="multiply each term once, by what the configuration says",
    )


def _split(split: Split, rows: Sequence[int], *, coupled: bool) -> Finding:
    """Whole batches that come several times, and rows that a trainer cuts itself, have to weigh alike in any design.

    Parts of a batch need not where its rows are weighed against each other, or where a key alone makes updates of them.
    """
    sizes, distance = [len(part) for part in split.cut], split.distance
    is_cut = sum(sizes) == len(rows) and len(sizes) > 1
    come = f"come in micro-batches of {sizes} rows" if is_cut else f"come {len(sizes)} times" if sizes[1:] else "come"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"the gradient of one update (norm {distance.size:.6g}) changes by {distance.measured:.3g} where its "
        f"{len(rows)} rows {come}{in_words(split.settings)}{', and they are not independent (GG407)' * coupled}; "
        f"allowed: {distance.allowed:.1e}",
        severity="warning" if is_cut and (split.settings or coupled) else "error",
        fix=FIX,
        detail={"rows": sizes, "distance": distance.measured},
    )
