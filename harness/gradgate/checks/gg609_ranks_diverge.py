"""Replicas that should be the same are not, after a few steps.

## What it detects

A module outside the wrapper, whose gradients stay on each rank (the value head is the usual one); a start from another
seed on each rank; buffers, schedules or optimizer settings that follow what a rank saw itself; an update that only
some ranks skip; one stream of random numbers for all ranks.

## Why it matters

Each rank trains a model of its own, the first one is saved, and what the others learnt is lost. Metrics look normal.

## How it decides

Two processes each take 3 steps of the stage, for each way that it declares. Statistic: named values (parameters,
persistent buffers, optimizer state and settings) that differ between the ranks in any bit after the start or after the
last step. Tensors that are spread over the processes, as under FSDP2, are different by design and left out. Allowed:
0. Replicas that got the same gradients take the same steps, bit for bit, so the false-alarm rate is 0 on one kind of
machine. Where a key of `Stage.options` gives dropout, one more step with it, of three processes: no two may draw the
same numbers, and so have the same masks.

## Example

Bad:

```python
model = DistributedDataParallel(trunk)
value_head = ValueHead()                                      # its gradients stay here
```

Good:

```python
model = DistributedDataParallel(TrunkAndValueHead(trunk, value_head))
```

## How to fix

Put every trained module inside the wrapper, seed its parameters alike, and decide what skips a step from numbers that
all ranks share.

## Known limits

Two processes and three steps, on the CPU, over gloo. What is not in `modules` or `optimizers` is not seen.

## Sources

Faults DI-02 and DI-05 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice

import torch

from gradgate.checks.gg610_one_process_differs_from_n import line_of
from gradgate.checks.moved import drawing_of
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.rank_ways import digest, line_of_state
from gradgate.checks.ranks import Rank, blamed, first_cause, together, told
from gradgate.checks.snapshot import named_parameters, take
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG609", "ranks-diverge"
NEEDS: tuple[str, ...] = ("distributed",)
PER_STAGE = True
STEPS = 3
DRAWING = 3  # processes: the first one may have a stream of its own and the others one together
FIX = "put every trained module inside the wrapper, seed it alike, and decide on numbers that all ranks share"
Digests = dict[str, str]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step on two processes and compare what each holds."""
    if context.device != "cpu":
        return Outcome(not_applicable="processes are forked, and a fork has no GPU: run it with --device cpu")
    with calling("start()"):
        stage.start(context.seed, device=context.device)  # what it keeps for a process, the forks have too
    findings, compared, differ = [], 0, 0
    culprit: Location | None = None
    for way, start in (stage.distributed or {}).items():
        apart: list[str] = []
        ranks = together(lambda _, start=start: states(start, context.seed), context.folder / way)  # type: ignore[misc]
        if told(ranks):
            where = culprit or line_of(subject, stage, start, context) or blamed(ranks)
            findings.append(_finding(f"{way}: {first_cause(ranks) or told(ranks)}", where))
            continue
        for when, number in (("at the start", 0), (f"after {STEPS} steps", 1)):
            apart = _apart(ranks, number)
            compared += len(ranks[0].value[number])
            differ += len(apart)
            if apart:
                more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
                culprit = culprit or _line(subject, stage, start, context, apart)
                text = f"{way}: {when} `{apart[0]}`{more} differ between the ranks; allowed: none"
                findings.append(_finding(text, culprit))
                break
        findings += [] if apart else _drawn_alike(way, stage, start, context)
    return Outcome(tuple(findings), {"values_that_differ": differ, "values": compared}, {"values_that_differ": 0})


def _drawn_alike(way: str, stage: Stage, start: Callable[..., Run], context: Context) -> list[Finding]:
    """A finding where every rank draws the same random numbers in a step with dropout."""
    drawing = drawing_of(stage)
    if not drawing:
        return []
    began, alone = partial(start, **drawing), partial(stage.start, **drawing)
    ranks = together(lambda _: _random(began, alone, context.seed), context.folder / f"{way}-drawing", world=DRAWING)
    if told(ranks):
        return []  # all rows on each rank are more than a step may be made for
    drawn = {each.value for each in ranks if each.value[0] != each.value[1]}
    if len(drawn) in (0, len(ranks)):
        return []
    message = f"{way}: with {drawing['options']} ranks draw the same random numbers in a step; allowed: none"
    fix = "seed the weights alike and then each rank's generator apart: with its rank"
    return [Finding(CODE, NAME, message, fix=fix)]


def _random(start: Callable[..., Run], alone: Callable[..., Run], seed: int) -> tuple[str, str]:
    """Digests of torch's generator before and behind a step on the batch that one process has: the same on each rank,
    since how much is drawn follows from how many rows there are."""
    batch = next(iter(alone(seed, dtype=torch.float32, device="cpu").batches()))
    with calling("start()"):
        run = start(seed, dtype=torch.float32, device="cpu")
    before = digest(torch.get_rng_state())
    with calling("step 1"):
        run.step(batch)
    return before, digest(torch.get_rng_state())


def states(start: Callable[..., Run], seed: int) -> tuple[Digests, Digests]:
    """Digests of a run's replicated state at its start and after its steps."""
    with calling("start()"):
        run = start(seed, dtype=torch.float32, device="cpu")
    first = _digests(run)
    for number, batch in enumerate(islice(run.batches(), STEPS), 1):
        with calling(f"step {number}"):
            run.step(batch)
    return first, _digests(run)


def _line(
    subject: Subject, stage: Stage, start: Callable[..., Run], context: Context, apart: list[str]
) -> Location | None:
    """Where the ranks' values part: what writes a setting or a buffer otherwise; of parameters, what their gradients
    lack."""
    run = stage.start(context.seed, device=context.device)
    learnt = set(named_parameters(run).values())
    written = [name for name in apart if name not in learnt and ".state[" not in name]
    if not written:
        return line_of(subject, stage, start, context)

    def work(tracing: Callable[..., AbstractContextManager[None]]) -> None:
        run = start(context.seed, dtype=torch.float32, device="cpu")
        batches = run.batches()
        with tracing(lambda: {name: value for name, value in take(run).items() if name in written}):
            for _ in range(STEPS):
                run.step(next(batches))

    return line_of_state(subject.source, work, context.seed, context.folder)


def _digests(run: Run) -> Digests:
    return {name: digest(value) for name, value in take(run).items() if not hasattr(value, "full_tensor")}


def _apart(ranks: list[Rank], number: int) -> list[str]:
    first = ranks[0].value[number]
    others = [each.value[number] for each in ranks[1:]]
    return sorted(name for name in first if any(other.get(name) != first[name] for other in others))


def _finding(message: str, culprit: Location | None = None) -> Finding:
    return Finding(CODE, NAME, message, culprit=culprit, fix=FIX)
