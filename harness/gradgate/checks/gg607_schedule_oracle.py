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
It is stepped through its whole schedule and 3 updates beyond (`Run.updates`, at most 200 in all), without that 20
updates behind its longest warm-up, and at each `Optimizer.step` the group of each parameter is read, just before it is
used.

Statistic: the largest relative distance between a declared number and the group's. Allowed: 1e-6, derived. Reference
(`gradgate.Schedule`) and trainer compute in float64, u = 1.1e-16: warm-up, constant and linear shapes take at most 8
operations without cancellation, 16 u between the two. The cosine's 1 + cos(pi p) cancels towards the end; of at most
200 updates the last before a fall to 0 has the share (pi / 400)^2 = 6e-5 left, so that 16 u / 6e-5 = 3e-11 is the worst
(4e-13 measured against cos(pi p / 2)^2, which does not cancel). The rest of 1e-6 is for rates that are kept in float32
tensors or written with seven digits: 8 roundings of 6e-8 each, doubled. A parameter that is
declared and in no group is a fault of its own. A metric called `lr` or `learning_rate` must be the rate of some group
at the update or behind it. Each way of `precisions` also takes an update, a step whose gradients are infinite, and two
steps more: where the trainer skips the second, what is declared for the second update holds for the third step.

Where a key of `Stage.options` says of how many micro-batches an update is made (GG410 tells which), and what is
declared goes by it, the same is looked at with several. Where it does not, an update must not have what is declared
for as many updates as there were micro-batches.

A schedule may count skipped steps on purpose. `Run.schedule_counts` says what moves it: `"updates"`, as above, or
`"steps"`, skipped ones too. Where a run does not say, and each of those updates has what is declared for the number of
its step, though not for its own, the finding is a warning.

False-alarm rate: 0.

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

In the adapter `rates`, which says the same for all parameters of a module, or

```python
def hyperparameters(self, update):
    rate = gradgate.Schedule(peak=3e-3, total_steps=300, warmup_steps=10, shape="cosine", final_ratio=0.1)(update)
    return {f"model.{name}": {"lr": rate} for name, _ in self.modules["model"].named_parameters()}
```

## How to fix

Build all groups before the scheduler, step it once an update, behind the optimizer, and clamp its progress at 1.

## Known limits

What is declared is believed: a schedule copied from the trainer's code shares its mistakes. Write it from the
configuration. Of the declared precisions one update each is made to overflow. Of a step that makes no update and was
not made to overflow it is not known that it skipped one: only `schedule_counts = "steps"` lets it move the schedule.

## Sources

Faults OS-04, OS-05, OS-07, OS-08, OS-10 and OS-11 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradgate.checks import first_fault
from gradgate.checks.micro_batch_rates import FEW, follows_micro_batches
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import SubjectRaisedError, as_finding, calling, reports_raises
from gradgate.checks.rate_lines import line_behind_skip, line_of_rate, line_of_refusal
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.split_batches import accumulating
from gradgate.checks.updates import is_skipped, parameters_of
from gradgate.core.errors import SubjectError, nearest
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject, largest_first
from gradgate.subjects.schedule import Schedule

CODE, NAME = "GG607", "schedule-oracle"
NEEDS: tuple[str, ...] = ("hyperparameters",)
PER_STAGE = True
BEYOND = 3  # updates behind the end of the schedule
MOST = 200
AFTER_SKIP = 2  # updates that are compared behind one that was skipped
WITHOUT_END = 20  # updates of a run that does not say how many it has
ALLOWED = 1e-6
ALLOWED_REPORTED = 1e-3  # metrics are rounded for people
REPORTED = ("lr", "learning_rate")
FIX = "build all groups before the scheduler, step it once an update, and clamp its progress at 1"
FIX_COUNT = 'step the scheduler where the optimizer steps, or set `Run.schedule_counts` to "steps"'

Groups = Mapping[nn.Parameter, Mapping[str, Any]]


@dataclass
class Held:
    """What was held against what is declared.

    Args:
        found: key and owner -> update, name, message and key of the first that is off.
        worst: the largest relative distance.
        updates: how many there were.
        skipped: steps that made none.
        follows_steps: every update had what is declared for the number of its step, skipped ones counted.
    """

    found: dict[tuple[str, str], tuple[int, str, str, str]] = field(default_factory=dict)
    worst: float = 0.0
    updates: int = 0
    skipped: int = 0
    follows_steps: bool = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step through the schedule and beyond, and compare every group at every update; then behind a skipped update."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    length = _length(run)
    held = Held()
    for batch in islice(run.batches(), length):
        try:
            _step(run, batch, held)
        except SubjectRaisedError as raised:
            start = partial(stage.start, device=context.device)
            find = partial(line_of_refusal, raised.error, subject, start, context.seed)
            return Outcome((named(as_finding(raised, CODE, NAME), find, context.seed),))
        if held.found and first_fault.wanted() is not None:
            break
    if not held.updates:
        return Outcome(not_applicable=f"no torch optimizer stepped in {length} steps: there is no rate to read")
    findings = [_with_line(_finding(*off), subject, stage, context, off[3]) for off in held.found.values()]
    skipped = [_behind_a_skip(subject, way, start, context) for way, start in (stage.precisions or {}).items()]
    findings += [finding for finding in skipped if finding is not None]
    findings += _accumulated(stage, context, run, held)
    measured = {"relative_distance": held.worst, "updates": held.updates}
    return Outcome(tuple(findings), measured, {"relative_distance": ALLOWED})


def _length(run: Run) -> int:
    """Updates that are looked at."""
    return min(MOST, behind_warm_up(run) if run.updates is None else run.updates + BEYOND)


def behind_warm_up(run: Run) -> int:
    """Updates of a run that does not say how many it has: as many behind the longest warm-up of its rates."""
    entries = (run.rates or {}).values()
    rates = (value for entry in entries for value in (entry.values() if isinstance(entry, Mapping) else [entry]))
    return WITHOUT_END + max((rate.warmup_steps for rate in rates if isinstance(rate, Schedule)), default=0)


def _accumulated(stage: Stage, context: Context, plain: Run, known: Held) -> list[Finding]:
    """What else is off where an update is made of several micro-batches, if what is declared goes by their number."""
    key, count = next(accumulating(stage), ("", 0))
    if not key:
        return []
    held = Held()
    try:
        with calling(f"start() with {key} = {count}"):
            run = stage.start(context.seed, device=context.device, options={key: count})
        length = _length(run)
        if all(run.hyperparameters(number) == plain.hyperparameters(number) for number in range(length)):
            return [] if known.found else _by_micro_batches(run, key, count)
        for batch in islice(run.batches(), length * count):
            _step(run, batch, held)
            held.skipped = 0  # a micro-batch is no step that is skipped
            if held.updates == length:
                break
    except SubjectRaisedError:  # with a key moved, and so GG414's
        return []
    return [
        _finding(update, name, f"{message}, with {key} = {count}")
        for found, (update, name, message, _) in held.found.items()
        if found not in known.found
    ]


def _by_micro_batches(run: Run, key: str, count: int) -> list[Finding]:
    names = named_parameters(run)

    def off(groups: Groups, number: int) -> float:
        return max((distance for _, _, distance, _ in _off(run, groups, names, number)), default=0.0)

    if not follows_micro_batches(run, count, _groups_at_updates, off, ALLOWED):
        return []
    text = f"with {key} = {count} has the rate that is declared for {count} times as many, as each other has"
    return [_finding(FEW - 1, next(iter(names.values())), f"{text}: the schedule moves once a micro-batch")]


def _step(run: Run, batch: Batch, held: Held) -> bool:
    """Step, and compare the groups of each update that it makes; whether it made any."""
    names = named_parameters(run)
    owners = _owners(run, names)
    with _groups_at_updates() as updates, calling(f"step of update {held.updates + 1}"):
        metrics = run.step(batch)
    for name, text in _misreported(metrics, updates, run.optimizers):
        held.found.setdefault((name, "metrics"), (held.updates, name, text, ""))
        held.worst = torch.inf
    for groups in updates:
        by_update = by_step = _off(run, groups, names, held.updates)
        if held.skipped:
            by_step = _off(run, groups, names, held.updates + held.skipped)
        held.follows_steps &= all(distance <= ALLOWED for _, _, distance, _ in by_step)
        for name, key, distance, message in by_step if run.schedule_counts == "steps" else by_update:
            held.worst = max(held.worst, distance)
            if distance > ALLOWED:
                held.found.setdefault((key, owners[name]), (held.updates, name, message, key))
        held.updates += 1
    held.skipped += not updates
    return bool(updates)


def _off(run: Run, groups: Groups, names: Mapping[nn.Parameter, str], number: int) -> list[tuple[str, str, float, str]]:
    """How far the groups are from what is declared for this number."""
    with calling("hyperparameters()"):
        declared = run.hyperparameters(number)
    _require_known(declared, names)
    due = declared if len(run.optimizers) < 2 else _held_now(declared, groups, run.optimizers, names)
    return list(_differences(due, groups, names))


def _behind_a_skip(subject: Subject, way: str, start: Callable[..., Run], context: Context) -> Finding | None:
    """What is off at the updates behind one that was skipped since its gradients are infinite, and at none before."""
    with calling("start()"):
        run = start(context.seed, device=context.device)
    held = Held()
    batches = run.batches()
    if not _step(run, next(batches), held) or held.found:
        return None  # a scale that begins too large, or what was found already
    with _infinite(named_parameters(run)):
        try:
            if _step(run, next(batches), held):
                return None  # it was made all the same, which GG303 is for
        except SubjectRaisedError:
            return None  # refused: nothing scales the loss here
    for batch in islice(batches, AFTER_SKIP):
        _step(run, batch, held)
    if not held.found:
        return None
    update, name, message, key = next(iter(held.found.values()))
    finding = _finding(update, name, f"{message}, behind an update that was skipped ({way})")
    if key and held.follows_steps and run.schedule_counts is None:
        message = f"{finding.message}; all rates follow the steps, skipped ones counted, and not the updates"
        finding = replace(finding, message=message, severity="warning", fix=FIX_COUNT)
    return named(finding, partial(_line_of_skip, subject, start, context), context.seed)


def _line_of_skip(subject: Subject, start: Callable[..., Run], context: Context) -> Line | None:
    run = start(context.seed, device=context.device)
    return line_behind_skip(subject, run, _infinite(named_parameters(run)))


def _with_line(finding: Finding, subject: Subject, stage: Stage, context: Context, key: str) -> Finding:
    """With the line that gave the group its number; of a metric, and of what no group has, none is looked for."""
    if key in ("", "params"):
        return finding
    update, name = finding.detail["update"] - 1, finding.detail["parameter"]
    return named(finding, partial(line_of_rate, subject, stage.start, context, update, name, key), context.seed)


@contextmanager
def _infinite(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Every gradient is infinite; the hooks are gone afterwards."""
    handles = [
        parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
        for parameter in parameters
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _groups_at_updates() -> Iterator[Sequence[Groups]]:
    """The group of each parameter as each update begins, without the parameters themselves.

    The first steps of several optimizers are one update, their second ones the next.
    """
    seen: list[dict[nn.Parameter, Mapping[str, Any]]] = []
    steps: dict[int, int] = {}

    def note(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if is_skipped(optimizer):
            return
        groups: dict[nn.Parameter, dict[str, Any]] = {}
        for group in optimizer.param_groups:
            settings = {key: value for key, value in group.items() if key != "params"}
            groups |= dict.fromkeys(group["params"], settings)
        number = steps[id(optimizer)] = steps.get(id(optimizer), -1) + 1
        if number == len(seen):
            seen.append({})
        seen[number] |= groups

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def _misreported(
    metrics: Mapping[str, Any], updates: Sequence[Groups], optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[str, str]]:
    """The metrics that are called a rate and are the rate of no group, at the update or behind it."""
    before = [float(group["lr"]) for groups in updates for group in groups.values()]
    rates = sorted({*before, *(float(group["lr"]) for made in optimizers for group in made.param_groups)})
    for name, value in metrics.items() if before else ():
        if name.lower().replace(".", "/").rpartition("/")[2] not in REPORTED:
            continue
        if not any(_distance(value, rate) <= ALLOWED_REPORTED for rate in rates):
            yield name, f"among the metrics is {float(value):.6g}, the groups have {', '.join(map(_shown, rates))}"


def _held_now(
    declared: Mapping[str, Mapping[str, Any]],
    groups: Groups,
    optimizers: Sequence[torch.optim.Optimizer],
    names: Mapping[nn.Parameter, str],
) -> Mapping[str, Mapping[str, Any]]:
    """What is declared, without the parameters of optimizers that do not step at this update."""
    resting = {names[p] for one in optimizers for p in parameters_of(one) if p in names and p not in groups}
    return {name: wanted for name, wanted in declared.items() if name not in resting}


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


def _owners(run: Run, names: Mapping[nn.Parameter, str]) -> dict[str, str]:
    """The smallest module that has a parameter, by the parameter's name."""
    found = {name: name.partition(".")[0] for name in names.values()}
    for owner in largest_first(run.modules):
        found |= {names[parameter]: owner for parameter in run.modules[owner].parameters()}
    return found


def _require_known(declared: Mapping[str, Any], names: Mapping[nn.Parameter, str]) -> None:
    known = set(names.values())
    for name in declared:
        if name not in known:
            raise SubjectError(f"hyperparameters(): no parameter {name!r}{nearest(name, known)}")


def _finding(update: int, name: str, message: str, _key: str = "") -> Finding:
    allowed = ALLOWED_REPORTED if message.startswith("among") else ALLOWED
    text = f"at update {update + 1} `{name}` {message}; allowed: {allowed:.0e} apart, relatively"
    return Finding(CODE, NAME, text, fix=FIX, detail={"update": update + 1, "parameter": name})
