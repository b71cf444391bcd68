"""Ranks wait for each other for ever: a collective that only some of them reach.

## What it detects

`all_reduce`, `barrier` or a wrapped forward behind `if rank == 0`, behind a rank's own data, loss or clock; an early
exit on one rank; evaluation or saving that one rank does with a model that needs them all.

## Why it matters

The job stands still until its time limit, with every GPU booked. The stack of the rank that waits says nothing about
the one that never came.

## How it decides

Two processes each take 3 steps of the stage, evaluate, and save, as far as the run can, for each way that it declares.
Statistic: processes that have not ended after 150 s, in which a healthy stage needs about one, or when for 5 s none of
those that are left, nor a child of one, computes anything (Linux). Allowed: 0. Each is then asked for its Python stack,
and killed: the finding has the stacks of all, and names the branch behind which one waits where the other did not go. A
process that raises is a finding too. Behind a way that hangs no further one is tried.

False-alarm rate: that of a machine so loaded that milliseconds take minutes, or of a step that sleeps 5 s.

## Example

Bad:

```python
if rank == 0:
    dist.all_reduce(loss)
    print(loss)
```

Good:

```python
dist.all_reduce(loss)
if rank == 0:
    print(loss)
```

## How to fix

Take the collective out of the branch; let all ranks take the same way on numbers that they share.

## Known limits

Two processes on the CPU, over gloo. A branch that these steps do not take is not seen, and neither is one that only
more than two ranks, or the end of the data, would take.

## Sources

Faults DI-06 and DI-07 of the fault catalogue; faulthandler of Python's standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from gradgate.checks import ranks as processes
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.rank_ways import line_of_parting
from gradgate.checks.ranks import blamed, first_cause, together, told
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG611", "collective-behind-guard"
NEEDS: tuple[str, ...] = ("distributed",)
PER_STAGE = True
STEPS = 3
FIX = "take the collective out of the branch that only some ranks take"


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step, evaluate and save on two processes, with a limit."""
    if context.device != "cpu":
        return Outcome(not_applicable="processes are forked, and a fork has no GPU: run it with --device cpu")
    with calling("start()"):
        stage.start(context.seed, device=context.device)  # what it keeps for a process, the forks have too
    findings, waiting = [], 0
    for way, start in (stage.distributed or {}).items():
        folder = context.folder / way
        work = partial(everything, start, context.seed, folder / "saved")
        ended = together(lambda _, work=work: work(), folder)  # type: ignore[misc]
        late = [each for each in ended if each.stack]
        waiting += len(late)
        if late:
            text = (
                f"{way}: {len(late)} of {len(ended)} ranks have not ended after {processes.SECONDS:g} s, or stand still"
            )
            where = line_of_parting(subject.source, work, ended, context.seed, context.folder)
            findings.append(_finding(f"{text}; allowed: none\n{told(ended)}", where))
            break  # another way would take as long
        if told(ended):
            where = line_of_parting(subject.source, work, ended, context.seed, context.folder) or blamed(ended)
            findings.append(_finding(f"{way}: {first_cause(ended)}", where))
    return Outcome(tuple(findings), {"ranks_that_wait": waiting}, {"ranks_that_wait": 0})


def everything(start: Callable[..., Run], seed: int, folder: Path) -> None:
    """All that a run does in several processes."""
    with calling("start()"):
        run = start(seed, dtype=torch.float32, device="cpu")
    for number, batch in enumerate(islice(run.batches(), STEPS), 1):
        with calling(f"step {number}"):
            run.step(batch)
    has = declared(run)
    if "evaluate" in has:
        with calling("evaluate()"):
            run.evaluate()
    if "save" in has:
        folder.mkdir(exist_ok=True)
        with calling("save()"):
            run.save(folder)


def _finding(message: str, culprit: Location | None) -> Finding:
    return Finding(CODE, NAME, message, culprit=culprit, fix=FIX)
