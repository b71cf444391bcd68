"""More padding changes loss, targets or gradients.

## What it detects

A mean over all positions instead of the real ones, a denominator that counts columns, statistics that include padding,
a target that reads the position behind the row.

## Why it matters

The same rows weigh differently, depending on which longer row they happen to share a batch with.

## How it decides

In float64, one batch as it is and with 1 and with 5 more positions of padding (`Run.pad`). Statistic: the distance of
each loss term, and of its gradient, from those of the batch as it is.

The same for one whole step of fresh runs: for its metrics that are no whole numbers, for counts of tokens or labels
among them by name, and for the numbers that the trainer keeps beside parameters and optimizers (running means, buffers,
counts of tokens); allowed: 1e-6 of each. What two runs on the batch as it is give otherwise is left out, and all is
where the step draws random numbers other than dropout.

Tolerance, derived: reordering a sum of n terms, or computing it in other blocks, is a change of each term by at most n
u of itself (u = 2**-53). The condition is measured: the noise is the largest change of the quantity under 3 random
changes of every parameter by 2 u. Allowed: 2 n (noise + u |quantity|), with n the number of elements of the batch's
largest tensor. Dropout keeps everything while the check looks; a loss that draws other random numbers, and differs, is
inconclusive. The line that is named is the one whose operation gave the loss term: its divisor, mostly.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
loss = ((value_BS - return_BS).square() * valid_BS).mean()                # divides by B * S
```

Good:

```python
loss = ((value_BS - return_BS).square() * valid_BS).sum() / valid_BS.sum()
```

## How to fix

Divide by what counts, and let nothing at padding into a sum, a statistic or a neighbour.

## Known limits

Padding on one side, the adapter's `pad`, with what it puts there.

## Sources

Fault LW-19 of the fault catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradgate.checks.company_lines import Company, line_of_company, valid_of
from gradgate.checks.count_lines import line_of_term
from gradgate.checks.invariance import Probe
from gradgate.checks.measures import finite
from gradgate.checks.own_lines import named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.run_parts import parts_of
from gradgate.checks.switches import Again
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.generators import are_same, states
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG406", "padding-invariance"
NEEDS: tuple[str, ...] = ("losses", "pad")
PER_STAGE = True
AGAIN = Again()
COUNTS = (1, 5)
OF_METRICS = 1e-6
NOTHING: AbstractContextManager[Any] = nullcontext()
COUNTED = re.compile(r"tok(en)?s?(?![a-z])|labels?(?![a-z])")
OF_COLUMNS = re.compile(r"pad|width|len|max|total_pos|capacity|slot")


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Pad a batch further, and compare."""
    probe = Probe(stage, context)
    (batch,) = probe.batches(1)
    with calling("pad()"):
        padded = [probe.run.pad(batch, count) for count in COUNTS]
    worst = probe.furthest(batch, padded)
    measured, allowed = {"distance": worst.measured}, {"distance": worst.allowed}
    if not worst.is_beyond:
        share, told = _whole_step(subject, stage, context)
        measured, allowed = {**measured, "metrics_ratio": share}, {**allowed, "metrics_ratio": OF_METRICS}
        return Outcome((told,) if told else (), measured, allowed)
    if probe.draws_beyond_dropout:
        return Outcome(inconclusive="the loss draws random numbers other than dropout, and its values differ")
    finding = Finding(
        code=CODE,
        name=NAME,
        message=f"{worst.quantity} (size {worst.size:.6g}) changes by {worst.measured:.3g} where the batch has "
        f"{COUNTS[0]} or {COUNTS[1]} more positions of padding; allowed: {worst.allowed:.1e}",
        culprit=line_of_term(probe.run, batch, probe.seed, worst.term, subject.source),
        fix="divide by the number of real tokens, and keep padding out of sums, statistics and neighbours",
        detail={"quantity": worst.quantity, "distance": worst.measured, "padding": list(COUNTS)},
    )
    return Outcome((finding,), measured, allowed)


def _whole_step(subject: Subject, stage: Stage, context: Context) -> tuple[float, Finding | None]:
    """How far what a step reports and keeps is from that of a step on the same rows with more padding."""
    plain, again, padded = (_step(stage, context, count) for count in (0, 0, COUNTS[-1]))
    if plain is None or again is None or padded is None:
        return 0.0, None
    names = [
        name
        for name, value in plain.items()
        if _is_same(value, again.get(name)) and _is_like(value, padded.get(name)) and _is_measured(name, value, padded)
    ]
    share, name = max(((_apart(plain[name], padded[name]), name) for name in names), default=(0.0, ""))
    if share <= OF_METRICS:
        return share, None
    ours, theirs = (
        value.flatten()[(plain[name] - padded[name]).abs().argmax()] for value in (plain[name], padded[name])
    )
    message = (
        f"{name} is {ours:.9g}, and {theirs:.9g} where the batch has {COUNTS[-1]} more positions of padding; "
        f"allowed: {OF_METRICS:g} of it"
    )
    fix = "count and sum over real tokens in what is reported and kept, too"
    finding = Finding(CODE, NAME, message, fix=fix, detail={"quantity": name})

    def is_right(found: Mapping[str, Tensor] | None) -> bool:
        other = None if found is None else found.get(name)
        return other is not None and _is_like(plain[name], other) and _apart(plain[name], other) <= OF_METRICS

    return share, named(finding, partial(_line, subject, stage, context, is_right), context.seed)


def _line(
    subject: Subject, stage: Stage, context: Context, is_right: Callable[[Mapping[str, Tensor] | None], bool]
) -> Location | None:
    """The line at which padding comes into what a step reports or keeps."""
    run, batch = _started(stage, context)
    real = [valid_of(run, run.pad(batch, count) if count else batch) for count in (0, COUNTS[-1])]
    if real[0] is None or real[1] is None:
        return None
    plain, padded = (partial(_step, stage, context, count) for count in (0, COUNTS[-1]))
    return line_of_company(subject.source, Company(plain, padded, range(len(real[0])), real[0], real[1]), is_right)


def _started(stage: Stage, context: Context) -> tuple[Run, Batch]:
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    return run, next(iter(run.batches()))


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference as a share of the largest number."""
    size = max(float(one.abs().max()), OF_METRICS)
    return float((one - other).abs().max()) / size


def _is_same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and torch.equal(one, other)


def _is_like(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and bool(other.isfinite().all())


def _is_measured(name: str, value: Tensor, padded: Mapping[str, Tensor]) -> bool:
    """Whether it was measured, or is a count of tokens: a count of columns may grow."""
    return _is_count(name) or bool((value != value.round()).any() | (padded[name] != padded[name].round()).any())


def _step(
    stage: Stage, context: Context, count: int, mode: AbstractContextManager[Any] = NOTHING
) -> dict[str, Tensor] | None:
    """What a fresh run's first step reports, and the numbers that it changed; None where it draws random numbers."""
    run, batch = _started(stage, context)
    batch = run.pad(batch, count) if count else batch
    kept = dict(_kept(run))
    with seeded(context.seed), without_dropout():
        before = states()
        with calling("step()"), mode:
            metrics = dict(run.step(batch) or {})
        if not are_same(before, states()):
            return None
    changed = {name: value for name, value in _kept(run) if not _is_same(value, kept.get(name))}
    reported = {
        f"the metric {name}": torch.tensor([value], dtype=torch.float64) for name, value in finite(metrics).items()
    }
    return reported | {f"`{name}`, behind one step,": value for name, value in changed.items()}


def _is_count(name: str) -> bool:
    """Whether a whole number is by its name one of tokens or labels."""
    return COUNTED.search(name.lower()) is not None and not OF_COLUMNS.search(name.lower())


def _kept(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Numbers that a run keeps beside its parameters and optimizers, by name: floats, and counts of tokens."""
    for name, part in parts_of(run).items():
        value: Any = part.value
        if isinstance(part.owner, Optimizer) or isinstance(value, nn.Parameter | bool):
            continue
        if isinstance(value, float) or (isinstance(value, int) and _is_count(name.rpartition(".")[2])):
            value = torch.tensor([value], dtype=torch.float64)
        is_number = isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0
        if is_number and not value.requires_grad and bool(value.isfinite().all()):
            yield name, value.detach().clone().double()
