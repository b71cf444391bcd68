"""Gradients of an earlier step leak into this one.

## What it detects

A `zero_grad` that is missing, that reaches only some of the parameters or optimizers, or that runs only every second
step; gradients that stand in `.grad` when the run starts.

## Why it matters

Each update then also repeats the last ones. The loss falls all the same, as with a larger learning rate and a momentum
that nobody set, until it does not; the clipping norm grows with the steps and silently shrinks every true gradient.

## How it decides

Two runs from one seed take 5 steps on the same batches. One is left alone. In the other, whatever stands in `.grad` is
set to zero before each step; a step that starts from clean gradients, wherever it clears them, does not notice.
Statistic: parameters whose gradient, as their optimizer steps, differs between the two, in the first step in which any
does. Allowed: 0. The finding names those whose gradient points elsewhere (the rest is only scaled, by clipping). No
gradient and a gradient of zeros are the same here. The line is that of a clearing that
reaches too little or is not always made; where there is none, the place where it belongs (where the step sets the mode,
else where its forward begins).

False-alarm rate: 0: until gradients leak, both runs do the same operations on the same numbers. Where they differ, the
run that is left alone is repeated; if it does not repeat itself, the check is inconclusive, see GG601.

## Example

Bad:

```python
trunk_optimizer.zero_grad()
loss.backward()                 # adds to what the value head's optimizer left in .grad
trunk_optimizer.step()
value_optimizer.step()
```

Good:

```python
for optimizer in (trunk_optimizer, value_optimizer):
    optimizer.zero_grad()
```

## How to fix

Clear the gradients of all parameters once between two updates: before the first backward of a step, or right behind
`optimizer.step()`.

## Known limits

A leak that starts after 5 steps is not seen. A gradient that the step keeps elsewhere than in `.grad` and adds again is
not seen. A trainer that accumulates over several calls of `step` breaks the contract, and fails here.

## Sources

Fault OS-01 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.recording import with_guilty_line
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.switches import Again
from gradgate.checks.update_lines import line_of_clearing, watched_step
from gradgate.checks.updates import Update, gradients_at_updates, parameters_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject
from gradgate.subjects.global_state import GlobalState

CODE, NAME = "GG206", "stale-gradient"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()
STEPS = 5
PARALLEL = 1e-6  # sine of the angle up to which one gradient is the other one scaled, as clipping leaves it in float32

Gradients = Mapping[str, Tensor | None]
Trace = list[list[Gradients]]  # by step, then by update within the step


@dataclass(frozen=True)
class _Leak:
    """Where the run that was left alone and the one that was cleaned part.

    Args:
        step: from 1.
        dirty: gradients of the run that was left alone.
        clean: gradients of the other.
    """

    step: int
    dirty: Gradients
    clean: Gradients

    def differing(self) -> list[str]:
        """Parameters whose gradients are not equal."""
        return [name for name in self.clean if not _equal(self.dirty[name], self.clean[name])]

    def turned(self) -> list[str]:
        """Those whose gradients are more than scaled."""
        return [name for name in self.differing() if not _parallel(self.dirty[name], self.clean[name])]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step twice from one seed, once with clean gradients before every step."""
    before = GlobalState.now()
    dirty = _trace(stage, context, cleaned=False)
    if not any(dirty):
        return Outcome(not_applicable=f"no torch optimizer stepped in {STEPS} steps: no gradient to look at")
    before.restore()
    clean = _trace(stage, context, cleaned=True)
    allowed = {"parameters_with_a_stale_gradient": 0}
    leak = _first_leak(dirty, clean)
    if leak is None:
        return Outcome(measured={"parameters_with_a_stale_gradient": 0, "steps": STEPS}, allowed=allowed)
    before.restore()
    if _first_leak(dirty, _trace(stage, context, cleaned=False)) is not None:
        return Outcome(inconclusive="two runs from one seed use different gradients (GG601)", allowed=allowed)
    stale = leak.turned() or leak.differing()
    measured = {"parameters_with_a_stale_gradient": len(stale), "steps": STEPS}
    finding = named(_finding(leak, stale), partial(_line, subject, stage, context, leak.step), context.seed)
    finding = with_guilty_line(finding, subject, stage, context, ("stale_grad",)) if not finding.culprit else finding
    return Outcome((finding,), measured, allowed)


def _line(subject: Subject, stage: Stage, context: Context, steps: int) -> Line | None:
    """The line at which the steps up to the one that leaks do not clear, or had to."""
    run = stage.start(context.seed, device=context.device)
    return line_of_clearing([watched_step(subject.source, run, batch) for batch in islice(run.batches(), steps)])


def _trace(stage: Stage, context: Context, *, cleaned: bool) -> Trace:
    """The gradients at every update of a fresh run."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    names = named_parameters(run)
    trace: Trace = []
    for number, batch in enumerate(islice(run.batches(), STEPS), 1):
        if cleaned:
            _clean(run)
        with gradients_at_updates(names) as updates, calling(f"step {number} of {STEPS}"):
            run.step(batch)
        trace.append([_named(update, names) for update in updates])
    return trace


def _clean(run: Run) -> None:
    # In place, and zeros for None nowhere: a parameter whose `.grad` is None is skipped by its optimizer, one of zeros
    # is not, and that is the trainer's choice.
    for parameter in named_parameters(run):
        if parameter.grad is not None:
            parameter.grad.detach().zero_()


def _named(update: Update, names: Mapping[nn.Parameter, str]) -> Gradients:
    # Only its own: what another optimizer holds may be cleared later, what none holds moves nothing.
    held = parameters_of(update.optimizer)
    return {names[parameter]: gradient for parameter, gradient in update.gradients.items() if parameter in held}


def _first_leak(dirty: Trace, clean: Trace) -> _Leak | None:
    for number, (left, right) in enumerate(zip(dirty, clean, strict=False), 1):
        for ours, theirs in zip(left, right, strict=False):
            leak = _Leak(number, ours, theirs)
            if leak.differing():
                return leak
    return None


def _equal(left: Tensor | None, right: Tensor | None) -> bool:
    left, right = _dense(left, right), _dense(right, left)
    return bool(((left == right) | (left.isnan() & right.isnan())).all())


def _parallel(left: Tensor | None, right: Tensor | None) -> bool:
    one, other = _dense(left, right).double(), _dense(right, left).double()
    size = float(other.square().sum())
    share = float((one * other).sum()) / size if size else 0.0
    return share > 0 and float((one - share * other).norm()) <= PARALLEL * float(one.norm())


def _dense(gradient: Tensor | None, like: Tensor | None) -> Tensor:
    if gradient is not None:
        return gradient
    return torch.zeros(()) if like is None else torch.zeros_like(like)


def _finding(leak: _Leak, stale: list[str]) -> Finding:
    name = stale[0]
    dirty, clean = _dense(leak.dirty[name], leak.clean[name]), _dense(leak.clean[name], leak.dirty[name])
    apart, norm = float((dirty - clean).norm()), float(clean.norm())
    others = f" (and that of {len(stale) - 1} more)" if len(stale) > 1 else ""
    return Finding(
        code=CODE,
        name=NAME,
        message=f"in step {leak.step} the gradient of `{name}`{others} at the update depends on what stood in `.grad` "
        f"before the step: it is {apart:.3g} away from that of the batch alone, whose norm is {norm:.3g}; allowed: 0",
        kind="stale_grad",
        fix="zero_grad() of every optimizer once between two updates, before the first backward",
        detail={"step": leak.step, "parameters": stale, "distance": apart, "norm": norm},
    )
