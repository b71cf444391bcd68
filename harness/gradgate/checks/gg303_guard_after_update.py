"""A NaN or Inf reaches parameters, optimizer or running state before it is caught, or is never caught.

## What it detects

A step without a guard, a guard that looks after `optimizer.step()`, one that only logs, one that looks at the loss
and not at the gradients, one that replaces the loss in the log by something finite and trains on.

## Why it matters

One update with a NaN destroys every parameter and both moments of the optimizer. The run then burns its remaining
hours, and each later checkpoint is as dead as the model.

## How it decides

On a fresh run two clean steps are taken, so that optimizer state exists. Then one step with a NaN, and in another run
with +Inf: in each floating field of the batch in turn (all its elements); in the gradient of the first and of the
last parameter that gets one; and, NaN only, in the output of each module. Statistic: the number of state values
(parameters, persistent buffers, optimizer state and settings) that differ, bit for bit, from before that step.
Allowed: 0.

* The step raises, or returns, with nothing changed: held. Where it returns, its metrics must say that it skipped: one
  of them differs from a clean step's and is not finite, or has `skip`, `nonfinite`, `overflow`, `nan` or `inf` in its
  name.
  A clean step on the same batch behind it must then change something again: gradients that a skipped step leaves behind
  make every later one skip.
* The step returns with the state of a clean step on the same batch: the field plays no part in this step, no finding.
* Anything else is a finding.

False-alarm rate: 0 for a step that is deterministic in its seed; equality is bit for bit.

## Example

Bad:

```python
loss.backward()
optimizer.step()
if not torch.isfinite(loss):
    raise FloatingPointError("loss is not finite")
```

Good:

```python
loss.backward()
norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
if not (torch.isfinite(loss) and torch.isfinite(norm)):
    raise FloatingPointError("loss or gradient is not finite: nothing was updated")
optimizer.step()
```

## How to fix

Look at the loss *and* at the norm of all gradients before any state is written: optimizer, scheduler, running
statistics.

## Known limits

State that the run does not show (an EMA outside `modules`, counters) is not compared. NaNs in integer batches can
enter through module outputs and gradients only. A module that is called another way than `module(...)` is not
reached.

## Sources

Faults OS-19, OS-20 and PR-13 of the fault catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf, isfinite, nan
from numbers import Real
from typing import Any

from torch import Tensor

from gradgate.checks import batches as trees
from gradgate.checks.injections import Injection, in_field, in_gradient, in_output
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, first_line, reports_raises
from gradgate.checks.snapshot import Difference, Snapshot, but_rates, first_difference, named_parameters, take
from gradgate.checks.update_lines import line_of_guard, watched_step
from gradgate.checks.updates import gradients_at_updates
from gradgate.core.finding import Finding, Location
from gradgate.core.origin import origin
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG303", "guard-after-update"
NEEDS: tuple[str, ...] = ("optimizers",)
PER_STAGE = True
WARM_STEPS = 2
SKIPPED = re.compile(r"(?<![a-z])(skip|non_?finite|overflow|nans?(?![a-z])|infs?(?![a-z]))")


@dataclass(frozen=True)
class CleanStep:
    """What a step on the same batch does where nothing was injected: the state it leaves but for rates, and metrics."""

    state: Snapshot
    metrics: Mapping[str, float]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Put a NaN everywhere, one place a run."""
    injections, clean = _survey(stage, context)
    judged = [_inject(subject, stage, context, injection, clean) for injection in injections]
    findings = tuple(finding for finding in judged if finding is not None)
    measured = {"injections": len(injections), "injections_that_got_through": len(findings)}
    return Outcome(findings=findings, measured=measured, allowed={"injections_that_got_through": 0})


def _survey(stage: Stage, context: Context) -> tuple[list[Injection], CleanStep]:
    """All places, from a run of its own: its third batch, and the parameters that get a gradient there."""
    run, batch = _warm(stage, context)
    names = named_parameters(run)
    with gradients_at_updates(names) as updates, calling(f"step {WARM_STEPS + 1}"):
        metrics = run.step(batch)
    graded = [names[p] for p in names if any(update.gradients[p] is not None for update in updates)]
    found = []
    for value in (nan, inf):
        found += [in_field(path, value) for path, _ in trees.floating_leaves(batch)]
        found += [in_gradient(name, value) for name in dict.fromkeys(graded[:1] + graded[-1:])]
    return found + [in_output(name) for name in run.modules], CleanStep(but_rates(take(run)), metrics)


def _inject(subject: Subject, stage: Stage, context: Context, injection: Injection, clean: CleanStep) -> Finding | None:
    """Take one poisoned step on a run of its own, and judge what it left behind."""
    run, batch = _warm(stage, context)
    before = but_rates(take(run))
    metrics: Mapping[str, float] = {}
    error: BaseException | None = None
    with injection.installed(run):
        try:
            metrics = run.step(injection.batch(batch))
        except (Exception, SystemExit) as raised:
            error = raised
    after = but_rates(take(run))
    change = first_difference(before, after)
    if change is None:
        if error is not None:
            return None
        held = _says_skipped(metrics, clean.metrics) or metrics.keys() <= getattr(run, "terms", {}).keys()
        return _stuck(run, batch, injection) if held else _silent(injection, metrics)
    if error is None and first_difference(clean.state, after) is None:
        return None
    find = partial(_line, subject, stage, context, injection, error)
    return named(_updated(injection, change, error), find, context.seed)


def _line(
    subject: Subject, stage: Stage, context: Context, injection: Injection, error: BaseException | None
) -> Line | Location | None:
    """The line that refuses too late; where none does, the one at which a refusal belongs."""
    if error is not None:
        return origin(error, subject.source)
    run, batch = _warm(stage, context)
    return line_of_guard(watched_step(subject.source, run, injection.batch(batch), injection.installed(run)))


def _warm(stage: Stage, context: Context) -> tuple[Run, Batch]:
    """A fresh run after its clean steps, and its next batch."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    *clean, batch = islice(run.batches(), WARM_STEPS + 1)
    for number, warm in enumerate(clean, 1):
        with calling(f"step {number}"):
            run.step(warm)
    return run, batch


def _stuck(run: Run, batch: Batch, injection: Injection) -> Finding | None:
    """Whether the step behind one that was skipped is skipped, too."""
    before = but_rates(take(run))
    try:
        run.step(batch)
    except (Exception, SystemExit):
        return None  # it gives up after one, and says so
    if first_difference(before, but_rates(take(run))) is not None:
        return None
    return Finding(
        CODE,
        NAME,
        f"{injection.value} in {injection.where} was skipped, and so is the next, clean step; allowed: a change",
        fix="clear the gradients before every backward, also behind a step that was skipped",
    )


def _says_skipped(metrics: Mapping[str, float], clean: Mapping[str, float]) -> bool:
    """Whether some metric that a clean step reports otherwise is not finite, or counts what was skipped.

    What is no number, such as a list of each head's loss, says neither.
    """
    numbers = {name: float(value) for name, value in metrics.items() if _is_number(value)}
    changed = {name: value for name, value in numbers.items() if value != clean.get(name)}
    return any(not isfinite(value) or bool(SKIPPED.search(name.lower())) for name, value in changed.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def _silent(injection: Injection, metrics: Mapping[str, float]) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{injection.value} in {injection.where}: no error, and no metric says that the step was skipped",
        fix="raise, or count the skipped step in a metric",
        detail={"injected": injection.where, "value": str(injection.value), "metrics": sorted(metrics)},
    )


def _updated(injection: Injection, change: Difference, error: BaseException | None) -> Finding:
    caught = f"caught too late ({type(error).__name__}: {first_line(error, 120)})" if error else "not caught"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{injection.value} in {injection.where} was {caught}: `{change.name}` changed ({change.text}); "
        "allowed: no change",
        fix="look at the loss and at the norm of all gradients before optimizer.step(), and stop there",
        detail={"injected": injection.where, "value": str(injection.value), "changed": change.name},
    )
