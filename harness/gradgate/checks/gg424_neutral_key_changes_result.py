"""A configuration key that is to change nothing but cost changes the loss or its gradient, or not even the cost.

## What it detects

Activation checkpointing that cuts the graph at a block, runs a block again with other dropout, or leaves a block out; a
fused, chunked or compiled form of a loss that is not the plain one; another attention kernel with another mask. And
recomputation that runs nothing again.

## Why it matters

Such a key is turned on where memory or time is short, which is where nobody compares. The run trains on another loss,
or a part of the model does not train at all, and its curve has nothing to be held against.

## How it decides

In float64, with the modules that are trained in train mode, on the first batch, for each value of each key of
`Stage.neutral` but its first: both runs get the same parameters, generators and batch. Statistic: how far the loss, and
the gradient of each parameter, is from that with the first value. Allowed: 1e-6 of the loss, and of the whole
gradient's norm, which is ten orders above float64's roundoff and far below what a missing part of a gradient is; where
anything is cast to a coarser dtype, 4,096 of its unit roundoffs. The same with dropout, where a key of `Stage.options`
gives it: what is run again has to draw the same masks.

A value with which a forward and its backward do just as many operations, on a batch that it does not change, does
nothing: a finding where the key's name is one of recomputation (`recompute`, `checkpointing`, `remat`), which cannot
be had without; a warning elsewhere.

Where taking a `detach` or a `no_grad` out of the trainer's own lines brings the gradient back, its line is named; where
dropout alone makes a difference, the line that hands a block over to be run again.

False-alarm rate: 0 for forms of one formula in float64.

## Example

Bad:

```python
hidden = checkpoint(block, hidden.detach().requires_grad_())     # nothing behind learns any more
```

Good:

```python
hidden = checkpoint(block, hidden, use_reentrant=False)
```

## How to fix

The message names the key and what differs. Where gradients alone differ, look for what cuts the graph; where they
differ with dropout alone, for generators that are not put back before a block is run again.

## Known limits

Keys that change the parameters' names or shapes, or how a batch is made, cannot be compared and are inconclusive.

## Sources

Fault GF-14 of the fault catalogue; allenai/OLMo-core#828, openai/guided-diffusion#167.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gradgate.checks import batches as trees
from gradgate.checks.cut_lines import line_of_cut
from gradgate.checks.invariance import Casts
from gradgate.checks.loss_gradient import gradients_by_backward
from gradgate.checks.moved import as_given, drawing_of, in_words, take_parameters
from gradgate.checks.own_lines import Line, OwnLines, is_torch, place, searched
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.core.errors import SubjectError
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.gates.counters import Totals
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG424", "neutral-key-changes-result"
NEEDS: tuple[str, ...] = ("losses", "neutral")
PER_STAGE = True
RELATIVE, ROUNDOFFS = 1e-6, 4096.0
RECOMPUTING = ("recompute", "recomputation", "checkpointing", "remat")


@dataclass(frozen=True)
class _Result:
    """What a batch gives: the loss, the gradient of each parameter by name, and how many operations that took."""

    loss: float
    gradients: Mapping[str, Tensor]
    operations: int

    @property
    def size(self) -> float:
        """Norm of the whole gradient."""
        return float(math.hypot(*(float(gradient.norm()) for gradient in self.gradients.values())))


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Move each key, and compare what a batch gives."""
    findings: list[Finding] = []
    differing, compared, strange = 0, 0, []
    for usual in _usual(stage):
        base = _start(stage, context, usual)
        batch = next(iter(base.batches()))
        plain = _result(base, batch, context.seed)
        share = max(RELATIVE, ROUNDOFFS * _unit(base, batch, context.seed))
        for moved in _moves(stage):
            tried = _Tried(stage, context, {**usual, **moved}, base, batch, plain, share)
            result = tried.result()
            if result is None:
                strange.append(in_words(moved))
                continue
            told = list(_apart(plain, result, share))
            compared += 1
            differing += bool(told)
            if any(finding.detail["key"] in moved for finding in findings):
                continue
            if told:
                findings.append(_finding(told, tried, subject.source))
            elif result.operations == plain.operations and tried.draws_alike():
                findings.append(_idle(moved, result.operations))
    if not compared:
        return Outcome(
            inconclusive=f"parameters have other names or shapes{strange[0]}" if strange else "each key has one value"
        )
    return Outcome(tuple(findings), {"differing": differing, "compared": compared}, {"differing": 0})


@dataclass(frozen=True)
class _Tried:
    """One value of a key, and what it is held against."""

    stage: Stage
    context: Context
    options: Mapping[str, Any]
    base: Run
    batch: Batch
    plain: _Result
    share: float

    def result(self) -> _Result | None:
        """What the batch gives; None where the two cannot be compared."""
        run = _start(self.stage, self.context, self.options)
        return _result(run, self.batch, self.context.seed) if take_parameters(run, self.base) else None

    def draws_alike(self) -> bool:
        """Whether the moved run's first batch is the plain one's: a key of the data acts there."""
        run = _start(self.stage, self.context, self.options)
        return trees.first_difference(self.batch, next(iter(run.batches()))) is None

    def told(self) -> list[str] | None:
        """What differs, in words; None where the two cannot be compared."""
        result = self.result()
        return None if result is None else list(_apart(self.plain, result, self.share))


def _usual(stage: Stage) -> list[Mapping[str, Any]]:
    """Options with which each key is moved: those that give dropout, and none."""
    drawing: Mapping[str, Any] = drawing_of(stage).get("options", {})
    return [drawing, {}] if drawing else [{}]


def _moves(stage: Stage) -> Iterator[dict[str, Any]]:
    return ({key: value} for key, values in (stage.neutral or {}).items() for value in values[1:])


def _start(stage: Stage, context: Context, options: Mapping[str, Any]) -> Run:
    with calling(f"start(){in_words(options)}"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device, **as_given(options))
    for module in run.modules.values():
        if any(parameter.requires_grad for parameter in module.parameters()):
            module.train()
    return run


def _unit(run: Run, batch: Batch, seed: int) -> float:
    with seeded(seed), calling("losses()"), Casts() as casts:
        run.losses(batch)
    unit: float = casts.unit
    return unit


def _result(run: Run, batch: Batch, seed: int) -> _Result:
    names = {parameter: name for parameter, name in named_parameters(run).items() if parameter.requires_grad}
    with seeded(seed), Totals() as counted:
        with calling("losses()"):
            terms = run.losses(batch)
        if "total" not in terms:
            raise SubjectError("losses() has no term 'total'; see GG001")
        gradients = gradients_by_backward(terms["total"], list(names))
    named = {names[parameter]: gradient.double() for parameter, gradient in gradients.items()}
    return _Result(float(terms["total"].detach()), named, counted.values["op_count"])


def _apart(one: _Result, other: _Result, share: float) -> Iterator[str]:
    """What differs, in words: the loss, then the gradient that differs most."""
    apart, allowed = abs(other.loss - one.loss), share * abs(one.loss)
    if not apart <= allowed:
        yield f"the loss {one.loss:.9g} becomes {other.loss:.9g}, {apart:.3g} apart; allowed: {allowed:.1e}"
    theirs = {name: other.gradients.get(name, torch.zeros_like(mine)) for name, mine in one.gradients.items()}
    distances = {name: float((theirs[name] - mine).norm()) for name, mine in one.gradients.items()}
    name = max(distances, key=lambda each: distances[each] if distances[each] == distances[each] else torch.inf)
    if not distances[name] <= share * one.size:
        lost = " and is 0" if not theirs[name].any() else ""
        yield (
            f"the gradient of `{name}` (norm {float(one.gradients[name].norm()):.6g}) changes by {distances[name]:.3g}"
            f"{lost}; allowed: {share * one.size:.1e}"
        )


class _Recomputing(OwnLines):
    """The first line that hands a block over to be run again."""

    within = False
    found: Line | None = None

    def entering(self, frame: FrameType) -> None:
        """Look for torch's own function for it."""
        if self.found is None and is_torch(frame, "checkpoint"):
            self.found = self.now()


def _line_of_recomputation(tried: _Tried, source: Path | None) -> Line | None:
    """The line that has a block run again, where all is right without dropout."""
    trace = _Recomputing(source)
    with trace.on():
        drawn = tried.told()
    usual = {key: value for key, value in tried.options.items() if key in (tried.stage.neutral or {})}
    plain = _start(tried.stage, tried.context, {})
    result = _result(plain, tried.batch, tried.context.seed)
    undrawn = replace(tried, options=usual, base=plain, plain=result).told()
    return trace.found if drawn and undrawn == [] else None


def _idle(moved: Mapping[str, Any], operations: int) -> Finding:
    """A value with which a step is the same, to the number of its operations."""
    (key,) = moved
    return Finding(
        CODE,
        NAME,
        f"{in_words(moved).strip()} does the {operations} operations of its first value: the key has no effect at all",
        severity="error" if any(name in key.lower() for name in RECOMPUTING) else "warning",
        fix="hand the key on to where the step is to run a block again, fuse or compile",
        detail={"key": key},
    )


def _finding(told: list[str], tried: _Tried, source: Path | None) -> Finding:
    found, _ = searched(lambda: line_of_cut(source, lambda: tried.told() == []), tried.context.seed) or (None, ())
    found = found or searched(partial(_line_of_recomputation, tried, source), tried.context.seed)
    return Finding(
        CODE,
        NAME,
        f"{in_words(tried.options).strip()}, which is to change nothing: {told[0]}",
        culprit=place(found),
        fix="let the key change how the result is computed, and not what it is",
        count=len(told),
        detail={"key": list(tried.options)[-1], "told": told},
    )
