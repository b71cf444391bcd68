"""Training changes something that the checkpoint does not bring back.

## What it detects

Counters, moving averages, early-stopping state, scalers, schedulers, queues and generators that live beside modules
and optimizers, change with the steps, and start anew in a run that has loaded.

## Why it matters

What GG602 sees after six steps is what acts at once. A patience counter, a loss scale or a curriculum acts a thousand
steps later, and then nobody thinks of the checkpoint.

## How it decides

By observation, without a list: everything reachable from the run (attributes, mappings, sequences, `state_dict()`s,
random generators; of an `OwnLoop` what the local variables of its loop hold, but for what reports) is written down as
named numbers, strings and tensors. Three runs: one takes 4 steps and saves after 3; another takes the same 4 steps; a
third, from another seed, loads and takes the 4th. Statistic: names whose value changed in training between the start
and the save, or between the save and the end; on which the first two runs agree to the bit; and which the loaded run
does not have at the end. What every step makes anew, such as the last loss, has come back by then. Allowed: 0.
False-alarm rate: 0 for state; a log of past losses that the run keeps in itself is reported, and may be left out of the
run.

A run that has a `save` and no `load`: every tensor of its modules and optimizers that changed between the start and the
save is looked for in the files, by value, within a hundredth of its largest number (weights may be written in 16 bits).
Statistic: those that are not there; allowed: 0. Where none is there the format is not understood: inconclusive.

## Example

Bad:

```python
self.best, self.worse = min(self.best, score), self.worse + (score >= self.best)     # and save() writes modules only
```

Good:

```python
state = {"model": model.state_dict(), "best": self.best, "worse": self.worse}
```

## How to fix

Save what is named, and load it.

## Known limits

What cannot be reached from the run's attributes (globals, closures, iterators, another process) is not seen, nor what
changes first after 4 steps. Objects from Python's and torch's own libraries are looked into through `state_dict()` and
generators' states only.

## Sources

Faults CR-01 to CR-07 of the fault catalogue.
"""

from __future__ import annotations

import re
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from gradgate.checks.checkpoints import OTHER_SEED, fresh, stepped
from gradgate.checks.contents import missing, tensors_in
from gradgate.checks.held_values import values_in
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.run_parts import digest, is_code, objects_of_loop
from gradgate.checks.snapshot import take
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Run, Stage, Subject
from gradgate.subjects.loop_state import Ranges

CODE, NAME = "GG603", "state-missing-from-checkpoint"
NEEDS: tuple[str, ...] = ("saved",)
PER_STAGE = True
SAVE_AFTER, STEPS = 3, 4
MOST = 20  # findings
_WITHIN = re.compile(r"(\.state_dict\(\).*|\[[^\[\]]*\])$")  # what of a name is behind that of its owner
Inventory = dict[str, str]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Write down what changes, and what comes back."""
    path = context.folder / "saved"
    path.mkdir()
    run = fresh(stage, context, context.seed)
    if "save" not in declared(run):
        return _by_content(run, path)
    start, saved, end = _trajectory(stage, context, save_to=path)
    again = _trajectory(stage, context)[2]
    back = _loaded(stage, context, path)
    changing = {name for name in end if end[name] != saved.get(name) or saved.get(name) != start.get(name)}
    stable = {name for name in changing if again.get(name) == end[name]}
    missing = sorted(name for name in stable if back.get(name) != end[name])
    measured = {"values_missing": len(missing), "values_that_change": len(changing), "values": len(end)}
    if not changing:
        return Outcome(measured=measured, inconclusive="no value of the run changed in training")
    owners = [(owner, list(names)) for owner, names in groupby(missing, key=lambda name: _WITHIN.sub("", name))]
    owners.sort(key=lambda each: ".state_dict()" in each[1][0])  # a count that is missing may move all parameters
    findings = tuple(_finding(*each) for each in owners[:MOST])
    return Outcome(findings, measured, {"values_missing": 0})


def _by_content(run: Run, path: Path) -> Outcome:
    """Where nothing loads: which of the tensors that training changed are in the files."""
    before = take(run)
    stepped(run, SAVE_AFTER)
    with calling("save()"):
        run.save(path)
    saved = tensors_in(path)
    lost, found = missing(take(run), before, saved)
    measured = {"values_missing": sum(map(len, lost.values())), "values_that_change": found, "tensors": len(saved)}
    if not found:
        return Outcome(measured=measured, inconclusive="none of the run's tensors is in a file that torch can read")
    return Outcome(tuple(_lost(owner, names) for owner, names in lost.items()), measured, {"values_missing": 0})


def _trajectory(stage: Stage, context: Context, save_to: Any = None) -> tuple[Inventory, Inventory, Inventory]:
    """The inventory at the start, after `SAVE_AFTER` steps and at the end."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    seen = [inventory(run)]
    for number, batch in enumerate(islice(run.batches(), STEPS), 1):
        with calling(f"step {number}"):
            run.step(batch)
        if number == SAVE_AFTER:
            seen.append(inventory(run))
            if save_to is not None:
                with calling("save()"):
                    run.save(save_to)
    return seen[0], seen[1], inventory(run)


def _loaded(stage: Stage, context: Context, path: Any) -> Inventory:
    with calling("start()"):
        run = stage.start(context.seed + OTHER_SEED, device=context.device)
    with calling("load()"):
        run.load(path)
    for number, batch in enumerate(islice(run.batches(), STEPS - SAVE_AFTER), SAVE_AFTER + 1):
        with calling(f"step {number} after load()"):
            run.step(batch)
    return inventory(run)


def inventory(run: Run) -> Inventory:
    """Everything reachable from a run, and from the local variables of its loop, by name, as digests."""
    seen: dict[int, object] = {}
    found = dict(values_in("run", run, seen, without=_is_no_state))
    for name, value in objects_of_loop(run).items():
        found |= {key: each for key, each in values_in(name, value, seen) if key not in found}
    return {name: digest(value) for name, value in found.items()}


def _is_no_state(value: object) -> bool:
    """Whether an object is code, or what this harness counts a loop's ranges with, which begin anew with the loop."""
    return is_code(value) or isinstance(value, Ranges)


def _finding(owner: str, names: list[str]) -> Finding:
    what = f"`{names[0]}`{_more(names, 'values', owner)} changes in training"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{what}, and after load() and one step is not what it was; allowed: none",
        fix="save what is named, and load it",
        detail={"owner": owner, "values": len(names)},
    )


def _lost(owner: str, names: list[str]) -> Finding:
    what = f"`{names[0]}`{_more(names, 'tensors', owner)} changed in training"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{what} and are in none of the files that save() wrote; allowed: none",
        fix="save what is named, under a name of its own, and write what loads it",
        detail={"owner": owner, "tensors": len(names)},
    )


def _more(names: list[str], kind: str, owner: str) -> str:
    """The others of the same owner, as a number."""
    return f" and {len(names) - 1} more {kind} of `{owner}`" if len(names) > 1 else ""
