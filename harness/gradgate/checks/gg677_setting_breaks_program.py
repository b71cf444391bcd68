"""The program hangs, breaks or trains nothing with a size or an interval that is legal and unusual.

## What it detects

A loop over a loader that gives no batch, for ever; a batch that is larger than the data and dropped, so that nothing
trains and the run ends well; an accumulation that is longer than an epoch and never makes an update; a division by an
interval of 0, a mean of no evaluation, a stage of one step whose schedule divides by 0; NaN in the log.

## Why it matters

Small data, a last experiment with one step, a run without evaluations: all of them are asked for. One that ends well
and has trained nothing is believed.

## How it decides

Keys of `Program.options` and `Program.watching` that are sizes of batches, accumulations, limits, intervals or warm-ups
by their names, and have whole numbers, are moved one at a time: sizes to 1 and to 4096, accumulation to 3 and 32,
limits of steps and epochs to 0, intervals to 1 and beyond the run, warm-up to 0, 1 and beyond the run. Fails: a launch
that makes no update for 10 s and five times as long as the configured run takes, that raises what is no refusal (a
ValueError, an assertion, an exit code is one), that ends well without an update, makes one update with a limit of 0, or
logs NaN or infinity where the configured run logs none.

A finding is a warning, but for one that hangs or trains nothing.

False-alarm rate: 0 for a program that runs or refuses.

## Example

Bad:

```python
loader = DataLoader(rows, batch_size=cfg.batch_size, drop_last=True)       # no batch where there are fewer rows
while step < cfg.steps:
    for batch in loader:
        ...
```

Good:

```python
if len(rows) < cfg.batch_size:
    raise ValueError(f"batch_size {cfg.batch_size} is more than the {len(rows)} training rows")
```

## How to fix

Refuse what cannot be trained with, naming the key and what it may be; let everything else run.

## Known limits

Values are of the kind, not of the trainer: one that the documentation forbids may be refused in any way that says so.

## Sources

Faults of two reviewed trainers, seen beside the list.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gradgate.checks.moved import in_words
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Turns, Whole, equal_runs, program_of, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG677", "setting-breaks-program"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "refuse what cannot be trained with, naming the key and what it may be; let everything else run"
BATCH = re.compile(r"(^|[._])(batch_?size|bs|micro_?batch(_size)?|rows_per_batch)$")
EVERY = re.compile(r"every|interval|_freq$|_steps?_per_")
BEST = re.compile(r"best|min|max", re.IGNORECASE)  # infinite while there is none
LIMIT = re.compile(r"(^|[._])(max_|num_|total_|n_|train_)?(steps|updates|iterations|iters|epochs)$")
WARM_UP = re.compile(r"warm_?up")


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Move each size and interval to its ends."""
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    first, turns = runs[0], Turns(context)
    moves = list(_moves(subject, len(first.updates)))
    if not moves:
        return Outcome(not_applicable="`options=` and `watching=` of the program have no size, interval or warm-up")
    findings: dict[str, Finding] = {}
    for settings in turns.of(moves):
        (key,) = settings
        said, severe = _wrong(whole(subject, context, settings), first, nothing=LIMIT.search(key.lower()) is not None)
        if said:
            place = whole(subject, context, settings).launched.place
            finding = Finding(
                CODE,
                NAME,
                f"the program {said}{in_words(settings)}",
                severity="error" if severe else "warning",
                victim=place,
                fix=FIX,
                detail={"key": key},
            )
            findings.setdefault(key, finding)
    return Outcome(tuple(sorted(findings.values(), key=lambda one: one.severity)), {"launches": turns.made})


def _moves(subject: Subject, updates: int) -> Iterator[dict[str, Any]]:
    program, beyond = program_of(subject), 4 * updates + 1
    for key, values in {**program.options, **program.watching}.items():
        name = key.lower()
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            continue
        ends: tuple[int, ...] = (4096, 1) if BATCH.search(name) else (32, 3) if is_of_accumulation(name) else ()
        ends = ends or ((1, 0, beyond) if WARM_UP.search(name) else (beyond, 1) if EVERY.search(name) else ())
        ends = ends or ((0,) if LIMIT.search(name) else ())
        yield from ({key: value} for value in ends if value not in values)


def _wrong(found: Whole, first: Whole, *, nothing: bool) -> tuple[str, bool]:
    """What went wrong, and whether it is worse than a warning; with `nothing` a limit is 0, and some stage makes no
    update."""
    launched = found.launched
    if launched.end == "hung":
        return launched.in_words, True
    if launched.end in ("raised", "died"):
        return f"breaks off ({launched.in_words})", False
    if nothing and launched.end == "ended":
        made, before = (Counter(one.optimizer for one in run.updates) for run in (found, first))
        once = any(count == 1 and before[optimizer] > 1 for optimizer, count in made.items())
        return ("makes one update of a stage", False) if once else ("", False)
    if launched.end == "ended" and not found.updates:
        return "comes to its end without an update", True
    names = {name for name, _ in _bad(first)}
    told = next(((name, value) for name, value in _bad(found) if name not in names), None)
    return (f"logs `{told[0]}` = {told[1]}", False) if told and launched.end == "ended" else ("", False)


def _bad(found: Whole) -> Iterator[tuple[str, float]]:
    for records in found.records.values():
        for record in records:
            for key, value in record.items():
                if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and not BEST.search(key))):
                    yield key, value
