"""Configured clipping does not bound the norm at the update, or clips gradients that are still scaled.

## What it detects

Clipping that is left out, that reaches only some of the parameters or optimizers, that runs behind the update, on
another norm than the configured one, or on gradients that a loss scaler has not unscaled yet.

## Why it matters

Nothing shows until the one batch whose gradient is a hundred times the usual: then the update that clipping was there
to prevent is made. Clipped before unscaling, every gradient is too small by the scale instead.

## How it decides

In float64, 3 steps of a run whose gradients are multiplied on the way into `.grad` (a hook on each parameter), by the
number that makes the first norm 1e4 times `Run.max_norm`. Statistic: the norm of all gradients together as their
optimizers step, over `max_norm`; where several optimizers clip apart, the norm of each. Allowed: 1 within 1e-6 /
max_norm + n * 2**-52 on either side: `clip_grad_norm_` divides by norm + 1e-6 where the norm is at least max_norm (1e-6
/ max_norm of it at most), and each of the n numbers that it squares and sums costs one rounding.

Each way of `precisions` does the same in its own dtypes, with the rounding of float32 (2**-23): there a loss scaler is
at work, where there is one. Where parameters have fewer bits, norms, their norm, the factor and the product are rounded
once each: 4 u more, with u half of the dtype's `eps`.

False-alarm rate: 0 for clipping by norm. A step that refuses the gradient instead is a finding that says so.

## Example

Bad:

```python
clip_grad_norm_(model.trunk.parameters(), 1.0)           # the value head's gradient is not bounded
optimizer.step()
```

Good:

```python
scaler.unscale_(optimizer)
clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
optimizer.step()
```

## How to fix

Clip all gradients of an update together, behind unscaling and before the step.

## Known limits

Clipping by value, by percentile or per parameter cannot be declared. Gradients that the step computes with
`torch.autograd.grad` do not pass the hooks.

## Sources

Faults OS-13, OS-14 and PR-10 of the fault catalogue; PyTorch, `torch.nn.utils.clip_grad_norm_`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf, sqrt

import torch
from torch import Tensor, nn

from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import SubjectRaisedError, as_finding, calling, reports_raises
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.update_lines import line_of_clipping, watched_step
from gradgate.checks.updates import Update, gradients_at_updates, parameters_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG207", "clipping-not-applied"
NEEDS: tuple[str, ...] = ("max_norm",)
PER_STAGE = True
STEPS = 3
LARGE = 1e4  # times max_norm: far above it, far below what overflows


@dataclass(frozen=True)
class Clipped:
    """What clipping made of gradients that were far too large.

    Args:
        worst: the norm at an update over `max_norm`, the one that is furthest from 1.
        updates: how many were looked at.
        factor: by which gradients were multiplied.
        tolerance: how far from 1 rounding may lead.
        bound: `max_norm`.
    """

    worst: float
    updates: int
    factor: float
    tolerance: float
    bound: float


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step with gradients that are far too large, in float64 and in each declared precision."""
    start = partial(stage.start, dtype=torch.float64)
    try:
        alone = _clipped(start, context, 2.0**-52)
    except SubjectRaisedError as raised:
        return Outcome(
            (named(as_finding(raised, CODE, NAME), partial(_overflow, subject, start, context), context.seed),)
        )
    if alone is None:
        return Outcome(inconclusive="no optimizer stepped with a gradient in the first step")
    found = {"": alone} | {
        f"{way}: ": clipped
        for way, other in (stage.precisions or {}).items()
        if (clipped := _clipped(other, context, 2.0**-23)) is not None
    }
    measured: dict[str, float] = {f"{way}norm_to_max_norm_ratio": clipped.worst for way, clipped in found.items()} | {
        "updates": sum(clipped.updates for clipped in found.values()),
        "gradients_multiplied_by": alone.factor,
    }
    allowed = {f"{way}norm_to_max_norm_ratio": 1 + clipped.tolerance for way, clipped in found.items()}
    wrong = {way: clipped for way, clipped in found.items() if abs(clipped.worst - 1) > clipped.tolerance}
    findings = []
    for way, clipped in wrong.items():
        begin = start if not way else (stage.precisions or {})[way.removesuffix(": ")]
        find = partial(_line, subject, begin, context, clipped.factor, scaled="" not in wrong)
        findings.append(named(_finding(way, clipped), find, context.seed))
    return Outcome(tuple(findings), measured, allowed)


def _line(subject: Subject, start: Callable[..., Run], context: Context, factor: float, *, scaled: bool) -> Line | None:
    """The line of clipping, from a step with the same gradients."""
    run = start(context.seed, device=context.device)
    first, batch = islice(run.batches(), 2)
    run.step(first)
    trace = watched_step(subject.source, run, batch, _multiplied(named_parameters(run), factor))
    return line_of_clipping(trace, scaled=scaled)


def _overflow(subject: Subject, start: Callable[..., Run], context: Context) -> Line | None:
    """The line that makes a number that is not finite out of gradients that are large and finite."""
    run = start(context.seed, device=context.device)
    first, batch = islice(run.batches(), 2)
    factor = LARGE * float(run.max_norm or 1.0) / max(_norms(run, first)[0])
    trace = watched_step(subject.source, run, batch, _multiplied(named_parameters(run), factor))
    return trace.first_nonfinite()


def _clipped(start: Callable[..., Run], context: Context, rounding: float) -> Clipped | None:
    """What a run's clipping leaves; None where no optimizer steps with a gradient that is finite."""
    with calling("start()"):
        run = start(context.seed, device=context.device)
    if run.max_norm is None:
        return None
    bound = float(run.max_norm)
    batches = list(islice(run.batches(), STEPS + 1))
    usual = _norms(run, batches[0])
    if not usual or not 0 < max(usual[0]) < inf:
        return None
    count = sum(parameter.numel() for parameter in named_parameters(run))
    factor = LARGE * bound / max(usual[0])
    seen: list[list[float]] = []
    with _multiplied(named_parameters(run), factor):
        for batch in batches[1:]:
            seen += _norms(run, batch)
    worst = max((_ratio(norms, bound) for norms in seen), key=lambda ratio: abs(ratio - 1), default=1.0)
    coarse = max(torch.finfo(parameter.dtype).eps for parameter in named_parameters(run))
    tolerance = 1e-6 / bound + count * rounding + (2 * coarse if coarse > rounding else 0.0)
    return Clipped(worst, len(seen), factor, tolerance, bound)


def _norms(run: Run, batch: Batch) -> list[list[float]]:
    """For each round of updates in a step: the norm of what all optimizers hold, then of each one's own."""
    names = named_parameters(run)
    with gradients_at_updates(names) as updates, calling("step()"):
        run.step(batch)
    if not updates:
        return []
    own = [_norm(update, parameters_of(update.optimizer)) for update in updates]
    together = _norm(updates[-1], set().union(*(parameters_of(update.optimizer) for update in updates)))
    return [[together, *own]]


def _norm(update: Update, parameters: set[nn.Parameter]) -> float:
    squares = (
        float(gradient.double().square().sum())
        for parameter, gradient in update.gradients.items()
        if gradient is not None and parameter in parameters
    )
    return sqrt(sum(squares))


def _ratio(norms: Sequence[float], bound: float) -> float:
    """The norm of all over the bound; where each optimizer clips apart, that of the one furthest off."""
    together, *own = (norm / bound for norm in norms)
    apart = max(own, key=lambda ratio: abs(ratio - 1))
    return min(together, apart, key=lambda ratio: abs(ratio - 1))


@contextmanager
def _multiplied(parameters: Sequence[nn.Parameter] | dict[nn.Parameter, str], factor: float) -> Iterator[None]:
    """Multiply each gradient on its way into `.grad`; the hooks are gone afterwards."""
    times: Callable[[Tensor], Tensor] = lambda gradient: gradient * factor  # noqa: E731
    handles = [parameter.register_hook(times) for parameter in parameters if parameter.requires_grad]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finding(way: str, clipped: Clipped) -> Finding:
    ratio, bound, factor = clipped.worst, clipped.bound, clipped.factor
    how = "is not bounded" if ratio > 1 else "is smaller than clipping leaves it"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{way}with gradients {factor:.3g} times the usual the norm at the update {how}: {ratio * bound:.6g}, "
        f"{ratio:.6g} times max_norm = {bound:g}; allowed: 1 times",
        fix="clip the gradients of all parameters together, behind unscale_() and before optimizer.step()",
        detail={"ratio": ratio, "max_norm": bound, "factor": factor},
    )
