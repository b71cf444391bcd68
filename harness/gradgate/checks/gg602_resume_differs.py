"""Saving, loading and going on differs from going on, in any bit.

## What it detects

Optimizer moments, scheduler, scaler, RNG, data position, a module or a counter that the checkpoint does not hold or
that `load` does not bring back; an older checkpoint taken for the newest; a save that itself changes the run.

## Why it matters

A long run is interrupted. If it goes on as another run, the loss jumps, data is repeated, and no result can be
reproduced.

## How it decides

Four runs, one after the other: 6 steps without a break; 6 steps from the same seed with a save after step 1 and after
step 3 (into the second's folder behind each step before, too, as a run saves again and again: what is loaded must be
the newest); and for each of the two checkpoints a fresh start from *another* seed, `load`, and the steps that remain.
Statistic: values that differ, bit for bit: module state, optimizer state and settings at the save, after loading and
after step 6; each batch that is drawn and the 32 that would come next; and the last step's metrics, those that two runs
from one seed agree on. Where these agree, one more run saves behind steps 8 to 11 into one folder, across the first
number that has a digit more: what is loaded is its last state. Allowed: 0. Where that holds and the stage declares ways
to train in several processes, two processes do it together, each way, with the later save alone; each compares what it
holds itself, and between a save and a load they wait for one another.

False-alarm rate: 0. Two runs from one seed that differ before any save are no resume fault: inconclusive, see GG601.

## Example

Bad:

```python
torch.save({"model": model.state_dict()}, path / "state.pt")
```

Good:

```python
parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
state = {name: part.state_dict() for name, part in parts.items()} | {"rng": torch.get_rng_state()}
torch.save(state, path / "state.pt")
```

## How to fix

The finding names the first value that differs, and when. Parameters that differ right after `load` were not saved;
where they are equal there and differ after the next steps, look at optimizer, RNG, schedule or data position.

## Known limits

State that shows its effect only after more than 6 steps and 32 batches (a later epoch, early stopping) is not seen. A
stage whose rows depend on the seed must keep them, or the seed, in its checkpoint. Both halves run in one process:
process-wide state that survives by accident helps the loaded run, except for random numbers.

## Sources

Faults CR-01, CR-02, CR-04, CR-05, CR-07 and CR-13 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gradgate.checks import batches as trees
from gradgate.checks.checkpoints import OTHER_SEED
from gradgate.checks.load_lines import line_of_resume
from gradgate.checks.moved import drawing_of
from gradgate.checks.newest_lines import line_of_choice
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.ranks import first_cause, together, told
from gradgate.checks.snapshot import Difference, Snapshot, first_difference, take
from gradgate.checks.switches import Again
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject
from gradgate.subjects.global_state import GlobalState

CODE, NAME = "GG602", "resume-differs"
NEEDS: tuple[str, ...] = ("save",)
PER_STAGE = True
AGAIN = Again(quick=1)
STEPS = 6
SAVE_AFTER = (1, 3)
MANY = range(8, 12)  # numbers of steps that have one digit and two
LOOK_AHEAD = 32  # batches drawn after the last step


@dataclass
class Trajectory:
    """What one run went through.

    Args:
        states: state by the number of steps taken.
        batches: batch by its number, from 0; `LOOK_AHEAD` more than steps.
        metrics: of the last step.
        changed_by_save: what a save changed, by the number of steps taken.
    """

    states: dict[int, Snapshot] = field(default_factory=dict)
    batches: dict[int, Batch] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    changed_by_save: dict[int, Difference] = field(default_factory=dict)


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Run without a break, with saves, and from each save; on one process, and on several."""
    allowed = {"runs_that_differ": 0}
    drawing = drawing_of(stage)
    start = partial(stage.start, device=context.device, **drawing)
    alone = found_apart(start, context.seed, context.folder / "alone")
    if alone.repeats:
        return Outcome(inconclusive=f"two runs from one seed differ before any save: {alone.repeats}", allowed=allowed)
    messages, runs = (
        list(alone.messages or _not_newest(start, context.seed, context.folder / "many")),
        2 + len(SAVE_AFTER),
    )
    ways = (stage.distributed or {}) if context.device == "cpu" and not messages else {}
    for way, started in ways.items():
        messages += [
            f"{way}: {message}"
            for message in _together(partial(started, **drawing), context.seed, context.folder / way)
        ]
        runs += 2
    measured = {"runs_that_differ": len(messages), "runs": runs}
    findings = [_finding(message) for message in messages]
    if messages and (alone.messages or not ways):
        findings = [
            named(finding, partial(_line, subject, stage, context), context.seed) for finding in findings[:1]
        ] + findings[1:]
    return Outcome(tuple(findings), measured, allowed)


def _line(subject: Subject, stage: Stage, context: Context) -> Line | None:
    """The line that does not save or does not bring back what differs."""
    folder, newest = context.folder / "line", context.folder / "newest"
    folder.mkdir()
    newest.mkdir()
    start = partial(stage.start, device=context.device)
    starts = partial(start, context.seed), partial(start, context.seed + OTHER_SEED)
    found = line_of_choice(subject.source, *starts, newest, MANY[-1])
    return found or line_of_resume(subject.source, start, context.seed, folder, SAVE_AFTER[-1])


@dataclass(frozen=True)
class Apart:
    """What differs, in words.

    Args:
        messages: one for each run that differs from the one without a break.
        repeats: how two runs from one seed differ before any save; empty where they do not.
    """

    messages: tuple[str, ...] = ()
    repeats: str = ""


def found_apart(start: Callable[..., Run], seed: int, folder: Path, saves: Sequence[int] = SAVE_AFTER) -> Apart:
    """Run without a break, with saves, and from each save.

    Args:
        start: of the stage, or of one of its ways to train in several processes.
        seed: for it.
        folder: for checkpoints; of several processes the same one.
        saves: numbers of steps behind which it saves.
    """
    plain = _go_on(_started(start, seed), Trajectory(), 0)
    saving = _go_on(_started(start, seed), Trajectory(), 0, folder=folder, saves=saves)
    early = _first_apart(plain, saving, up_to=saves[0])
    if early is not None:
        return Apart(repeats=f"{early} (GG601)")
    messages = [
        f"save() after {done} steps changed the run: `{change.name}`: {change.text}"
        for done, change in saving.changed_by_save.items()
    ]
    if not messages and (apart := _first_apart(plain, saving, up_to=STEPS)) is not None:
        messages.append(f"a run that only saves, and does not load, goes on otherwise: {apart}")
    stable = {name for name, value in plain.metrics.items() if value == saving.metrics.get(name)}
    for done in saves:
        loaded = _resumed(start, seed, folder, done)
        apart = _first_apart(plain, loaded, up_to=STEPS) or _metrics_apart(plain, loaded, stable)
        if apart is not None:
            messages.append(f"{done} steps + save + load + {STEPS - done} steps is not {STEPS} steps: {apart}")
    return Apart(tuple(messages))


def _not_newest(start: Callable[..., Run], seed: int, folder: Path) -> Iterator[str]:
    """What is loaded behind many saves into one folder, where it is not the last."""
    run = _started(start, seed)
    folder.mkdir(parents=True)
    batches: Iterator[Batch] = iter(run.batches())
    for done in range(1, MANY.stop):
        with calling(f"step {done}"):
            run.step(next(batches))
        if done in MANY:
            with calling(f"save() after {done} steps"):
                run.save(folder)
    last, loaded = _own(run), _started(start, seed + OTHER_SEED)
    with calling(f"load() after {MANY[-1]} steps"):
        loaded.load(folder)
    change = first_difference(last, _own(loaded))
    if change is not None:
        yield (
            f"behind saves after {MANY[0]} to {MANY[-1]} steps into one folder, load() brings back another than the "
            f"last: `{change.name}`: {change.text}"
        )


def _together(start: Callable[..., Run], seed: int, folder: Path) -> list[str]:
    """What differs on two processes; nothing where two runs of one seed differ, which GG601 and GG609 are for."""
    ranks = together(lambda _: found_apart(start, seed, folder / "saved", SAVE_AFTER[-1:]), folder)
    if told(ranks):
        return [first_cause(ranks) or told(ranks)]
    apart: list[Apart] = [each.value for each in ranks]
    if any(each.repeats for each in apart):
        return []
    return next(
        ([f"rank {rank}: {message}" for message in each.messages] for rank, each in enumerate(apart) if each.messages),
        [],
    )


def _started(start: Callable[..., Run], seed: int) -> Run:
    with calling("start()"):
        return start(seed)


def _resumed(start: Callable[..., Run], seed: int, folder: Path, done: int) -> Trajectory:
    run = _started(start, seed + OTHER_SEED)
    with calling(f"load() after {done} steps"):
        run.load(_checkpoint(folder, done))
    return _go_on(run, Trajectory(), done)


def _go_on(run: Run, into: Trajectory, done: int, folder: Path = Path(), saves: Sequence[int] = ()) -> Trajectory:
    """Step until `STEPS`, noting everything; save on the way behind so many steps."""
    batches: Iterator[Batch] = iter(run.batches())
    into.states[done] = _own(run)
    while done < STEPS:
        with calling(f"drawing batch {done}"):
            into.batches[done] = next(batches)
        with calling(f"step {done + 1}"):
            into.metrics = run.step(into.batches[done])
        done += 1
        into.states[done] = _own(run)
        for path in (_checkpoint(folder, behind) for behind in saves if done == behind or done < behind == saves[-1]):
            _save(run, into, done, path)  # in one folder several times, as a run does: the newest is what counts
    with calling("drawing batches"):
        into.batches.update(enumerate(islice(batches, LOOK_AHEAD), STEPS))
    return into


def _save(run: Run, into: Trajectory, done: int, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)  # every process of several does
    rng = GlobalState.now().rng
    with calling(f"save() after {done} steps"):
        run.save(path)
    if dist.is_initialized():
        dist.barrier()  # one may write what another reads
    change = first_difference(into.states[done], _own(run))
    moved = trees.first_difference(rng, GlobalState.now().rng)
    change = change or (moved and Difference("random state", moved.text))
    if change is not None:
        into.changed_by_save[done] = change


def _own(run: Run) -> Snapshot:
    """The run's state; of a tensor that is spread over processes, what this one holds."""
    return {name: value.to_local() if hasattr(value, "to_local") else value for name, value in take(run).items()}


def _checkpoint(folder: Path, done: int) -> Path:
    return folder / f"after-{done}"


def _first_apart(plain: Trajectory, other: Trajectory, up_to: int) -> str | None:
    """The first state or batch in which two runs differ, in the order in which they happened."""
    batches = up_to if up_to < STEPS else STEPS + LOOK_AHEAD
    for number in range(max(up_to + 1, batches)):
        if number in other.states and (found := first_difference(plain.states[number], other.states[number])):
            return f"after {number} steps `{found.name}`: {found.text}"
        if (
            number < batches
            and number in other.batches
            and (found := trees.first_difference(plain.batches[number], other.batches[number]))
        ):
            return f"batch {number} `{found.name}`: {found.text}"
    return None


def _metrics_apart(plain: Trajectory, other: Trajectory, stable: set[str]) -> str | None:
    apart = sorted(name for name in stable if plain.metrics[name] != other.metrics.get(name))
    values = {name: (plain.metrics[name], other.metrics.get(name)) for name in apart}
    return f"metrics of step {STEPS}: {_listed(values)}" if apart else None


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {left!r} became {right!r}" for name, (left, right) in values.items())


def _finding(message: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{message}; allowed: no bit",
        fix="save and load all that a step reads: modules, optimizers, schedulers, scaler, RNG, data order, position",
    )
