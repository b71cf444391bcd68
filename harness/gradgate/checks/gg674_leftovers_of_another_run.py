"""A new run of the program takes what another one left in its folder, or lets a resume take it.

## What it detects

The newest checkpoint by its number, where another run left higher ones; a rotation of checkpoints that deletes what was
written a moment ago, because the older run's are further on; a final file of a stage that is taken for this run's; a
best score, a cache of rows or of rewards that is read from a folder whatever the settings.

## Why it matters

Folders are used again: with another seed, another rate, a shorter run. What is then resumed, evaluated or handed to the
second stage is the other run's, under this one's name.

## How it decides

A run with another seed (`Program.seed`) fills the folder, to its end and stopped two updates in front of it. A new run
is then made there, without `resume`: it must refuse (an exit code, a ValueError) or make the same updates as in an
empty folder. The same run, stopped behind a checkpoint of its own and resumed, must go on as in a folder of its own, or
refuse.

False-alarm rate: 0 for a program that clears, refuses or ignores what is there.

## Example

Bad:

```python
newest = max(folder.glob("step_*.pt"), key=lambda file: int(file.stem[5:]))      # the other run's
```

Good:

```python
if not resume and any(folder.glob("step_*.pt")):
    raise SystemExit(f"{folder} has checkpoints of another run: resume it, or name another folder")
```

## How to fix

Refuse a folder that has checkpoints unless it is resumed, or clear it; put what tells a run into its checkpoints.

## Known limits

A program without a key for its seed is not asked. Logs that a new run appends to are not compared.

## Sources

A fault of a reviewed trainer.
"""

from __future__ import annotations

import shutil

from gradgate.checks.launches import first_parting, launch
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Turns, Whole, equal_runs, parted, points, program_of, resumed_at, seconds_for
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG674", "leftovers-of-another-run"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
OTHER = 4242  # a seed
FIX = "refuse a folder that has checkpoints unless it is resumed, or clear it"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Fill the folder, and train there anew."""
    seed = program_of(subject).seed
    if not seed:
        return Outcome(not_applicable="the program has no `seed=`: the key by which another run can be made")
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    turns, length = Turns(context), len(runs[0].updates)
    findings = []
    for left_at in turns.of((None, length - 2) if length > 2 else (None,)):
        finding = _behind(subject, context, seed, left_at, runs[0])
        findings += [finding] if finding is not None else []
    return Outcome(tuple(findings[:1]), {"folders": turns.made})


def _behind(subject: Subject, context: Context, seed: str, left_at: int | None, first: Whole) -> Finding | None:
    """What a new run does where another was made, stopped behind an update or not."""
    seconds, folder = seconds_for(subject, context), context.folder / f"used{left_at}"
    where = "in a folder of a finished run with another seed"
    if left_at is not None:
        where = f"in a folder of a run with another seed that was stopped behind update {left_at}"
    other = launch(subject, folder, {seed: OTHER}, stop=left_at, seconds=seconds)
    if other.end not in ("ended", "stopped"):
        return None
    kept = folder.with_name(f"{folder.name}-kept")
    shutil.copytree(folder, kept)
    anew = launch(subject, folder, seconds=seconds)
    if anew.end in ("refused", "slow"):
        return None
    if anew.end != "ended":
        return _finding(f"{where}, the program {anew.in_words}", victim=anew.place)
    at = first_parting(anew.updates, first.updates)
    if at is not None:
        far = parted(anew.updates, first.updates, at)
        text = f"a new run {where} is another one than in an empty folder from update {at + 1}"
        return _finding(f"{text}: {far}; allowed: none")
    point = next((point for point in points(first.updates, 16) if point.saved), None)
    if point is None:
        return None
    launch(subject, kept, stop=point.update, seconds=seconds)
    resumed = launch(subject, kept, resume=True, seconds=seconds)
    shutil.rmtree(kept, ignore_errors=True)
    if resumed.end in ("refused", "slow"):
        return None
    made, whole = len(resumed.updates), len(first.updates)
    text = f"a new run {where}, stopped behind update {point.update} of {whole} and resumed,"
    if resumed.end != "ended":
        return _finding(f"{text} {resumed.in_words}", victim=resumed.place)
    if not made:
        return _finding(f"{text} makes no update: it takes the other run for its own")
    at = first_parting(resumed.updates, first.updates[whole - made :] if made <= whole else first.updates)
    if at is None:
        return None
    alone = _alone(subject, context, point.update, first)
    return _finding(f"{text} goes on with other parameters than in a folder of its own") if alone else None


def _alone(subject: Subject, context: Context, update: int, first: Whole) -> bool:
    """Whether the same stop and resume goes on well in a folder of its own."""
    resumed = resumed_at(subject, context, update).updates
    return bool(resumed) and first_parting(resumed, first.updates[len(first.updates) - len(resumed) :]) is None


def _finding(message: str, **places: object) -> Finding:
    return Finding(CODE, NAME, message, fix=FIX, **places)  # type: ignore[arg-type]
