"""A group's learning rate differs from the declared schedule at some step.

## What it detects

A schedule that is never stepped, stepped twice, or stepped past its end so that the rate rises again; warm-up that is
off by one; a scheduler that gives every group the first one's rate; a group that was added behind the scheduler and
stays at a constant; parameters that no group has; weight decay on norms and biases, or on them alone; wrong betas; a
rate among the metrics that no group has.

## Why it matters

The loss falls all the same, more slowly or less far. Nothing else shows it.

## How it decides

The run says what each parameter should be trained with at each update (`Run.hyperparameters`), from the configuration.
It is stepped through its whole schedule and 3 updates beyond (`Run.updates`, at most 200 in all), and at each
`Optimizer.step` the group of each parameter is read, just before it is used.

Statistic: the largest relative distance between a declared number and the group's. Allowed: 1e-6, derived. Reference
(`gradgate.Schedule`) and trainer compute in float64, u = 1.1e-16: warm-up, constant and linear shapes take at most 8
operations without cancellation, 16 u between the two. The cosine's 1 + cos(pi p) cancels towards the end; of at most
200 updates the last before a fall to 0 has the share (pi / 400)^2 = 6e-5 left, so that 16 u / 6e-5 = 3e-11 is the worst
(4e-13 measured against cos(pi p / 2)^2, which does not cancel). The rest of 1e-6 is for rates that are kept in float32
tensors or written with seven digits: 8 roundings of 6e-8 each, doubled. A parameter that is
declared and in no group is a fault of its own. A metric called `lr` or `learning_rate` must be the rate of some group
at the update or behind it. False-alarm rate: 0.

## Example

Bad:

```python
scheduler = LambdaLR(optimizer, share)
optimizer.add_param_group({"params": value_head.parameters(), "lr": 1e-3})   # never scheduled
```

Good:

```python
optimizer.add_param_group({"params": value_head.parameters(), "lr": 1e-3})
scheduler = LambdaLR(optimizer, share)
```

In the adapter:

```python
def hyperparameters(self, update):
    rate = gradgate.Schedule(peak=3e-3, total_steps=300, warmup_steps=10, shape="cosine", final_ratio=0.1)(update)
    return {f"model.{name}": {"lr": rate} for name, _ in self.modules["model"].named_parameters()}
```

## How to fix

Build all groups before the scheduler, step it once an update, behind the optimizer, and clamp its progress at 1.

## Known limits

What is declared is believed: a schedule copied from the trainer's code shares its mistakes. Write it from the
configuration. Updates that the scaler skips are not produced.

## Sources

Faults OS-04, OS-05, OS-07, OS-08, OS-10 and OS-11 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.snapshot import named_parameters
from gradgate.core.errors import SubjectError, nearest
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG607", "schedule-oracle"
NEEDS: tuple[str, ...] = ("hyperparameters",)
PER_STAGE = True
BEYOND = 3  # updates behind the end of the schedule
MOST = 200
WITHOUT_END = 20  # updates of a run that does not say how many it has
ALLOWED = 1e-6
ALLOWED_REPORTED = 1e-3  # metrics are rounded for people
REPORTED = ("lr", "learning_rate")
FIX = "build all groups before the scheduler, step it once an update, and clamp its progress at 1"

Groups = Mapping[nn.Parameter, Mapping[str, Any]]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step through the schedule and beyond, and compare every group at every update."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    names = named_parameters(run)
    length = min(MOST, WITHOUT_END if run.updates is None else run.updates + BEYOND)
    found: dict[tuple[str, str], tuple[int, str, str]] = {}
    worst, update = 0.0, 0
    batches = islice(run.batches(), length)
    for batch in batches:
        with _groups_at_updates() as updates, calling(f"step of update {update + 1}"):
            metrics = run.step(batch)
        for name, text in _misreported(metrics, updates, run.optimizers):
            found.setdefault((name, "metrics"), (update, name, text))
            worst = torch.inf
        for groups in updates:
            with calling("hyperparameters()"):
                declared = run.hyperparameters(update)
            _require_known(declared, names)
            for name, key, distance, message in _differences(declared, groups, names):
                worst = max(worst, distance)
                if distance > ALLOWED:
                    found.setdefault((key, _owner(name)), (update, name, message))
            update += 1
    if not update:
        return Outcome(not_applicable=f"no torch optimizer stepped in {length} steps: there is no rate to read")
    findings = [_finding(*place) for place in found.values()]
    measured = {"relative_distance": worst, "updates": update}
    return Outcome(tuple(findings), measured, {"relative_distance": ALLOWED})


@contextmanager
def _groups_at_updates() -> Iterator[list[Groups]]:
    """The group of each parameter as each update begins, without the parameters themselves."""
    seen: list[Groups] = []

    def note(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        groups: dict[nn.Parameter, dict[str, Any]] = {}
        for group in optimizer.param_groups:
            settings = {key: value for key, value in group.items() if key != "params"}
            groups |= dict.fromkeys(group["params"], settings)
        seen.append(groups)

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def _misreported(
    metrics: Mapping[str, Any], updates: list[Groups], optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[str, str]]:
    """The metrics that are called a rate and are the rate of no group, at the update or behind it."""
    before = [float(group["lr"]) for groups in updates for group in groups.values()]
    rates = sorted({*before, *(float(group["lr"]) for made in optimizers for group in made.param_groups)})
    for name, value in metrics.items() if before else ():
        if name.lower().replace(".", "/").rpartition("/")[2] not in REPORTED:
            continue
        if not any(_distance(value, rate) <= ALLOWED_REPORTED for rate in rates):
            yield name, f"among the metrics is {float(value):.6g}, the groups have {', '.join(map(_shown, rates))}"


def _differences(
    declared: Mapping[str, Mapping[str, Any]], groups: Groups, names: Mapping[nn.Parameter, str]
) -> Iterator[tuple[str, str, float, str]]:
    """Parameter, key, relative distance and message of each declared number."""
    by_name = {names[parameter]: group for parameter, group in groups.items() if parameter in names}
    if not by_name.keys() & declared.keys():
        return  # another optimizer's update
    for name, wanted in declared.items():
        if name not in by_name:
            yield name, "params", float("inf"), "is in no group of the optimizer"
            continue
        for key, value in wanted.items():
            if key not in by_name[name]:
                yield name, key, float("inf"), f"has no {key} in its group, declared {value!r}"
                continue
            actual = by_name[name][key]
            yield name, key, _distance(actual, value), f"has {key} {_shown(actual)}, declared {_shown(value)}"


def _distance(actual: Any, wanted: Any) -> float:
    if isinstance(wanted, tuple | list):
        pairs = zip(actual, wanted, strict=False)
        return max((_distance(one, other) for one, other in pairs), default=0.0) if len(actual) == len(wanted) else 1.0
    there, here = float(actual), float(wanted)
    return abs(there - here) / max(abs(here), 1e-12)


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, tuple | list) else f"{float(value):.6g}"


def _owner(name: str) -> str:
    return name.partition(".")[0]


def _require_known(declared: Mapping[str, Any], names: Mapping[nn.Parameter, str]) -> None:
    known = set(names.values())
    for name in declared:
        if name not in known:
            raise SubjectError(f"hyperparameters(): no parameter {name!r}{nearest(name, known)}")


def _finding(update: int, name: str, message: str) -> Finding:
    allowed = ALLOWED_REPORTED if message.startswith("among") else ALLOWED
    text = f"at update {update + 1} `{name}` {message}; allowed: {allowed:.0e} apart, relatively"
    return Finding(CODE, NAME, text, fix=FIX, detail={"update": update + 1, "parameter": name})
