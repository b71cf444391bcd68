"""A setting that was changed in front of a resume changes nothing, and nothing says so.

## What it detects

A rate, a decay or a coefficient that is taken out of the checkpoint (the groups of an optimizer's state, base rates of
a scheduler's, a saved configuration) over the one that the resumed run was started with.

## Why it matters

Somebody lowers the rate after a spike, resumes, and concludes that a lower rate does not help.

## How it decides

The program is stopped behind a checkpoint of each stage, and resumed twice: as it was, and with a value of
`Program.options` changed, for keys whose name says that every update takes them (rates, decay, coefficients, clipping,
temperatures, discounts). A resume that refuses, with an exit code or a ValueError, passes. One that makes the same
updates to the bit, while a run with that value from the start makes others, ignores the setting.

A finding is a warning: that a checkpoint's settings hold may be meant so; then the program should say it.

False-alarm rate: 0 for a program that takes or refuses its settings.

## Example

Bad:

```python
optimizer.load_state_dict(state["optimizer"])           # brings the old rate and decay
```

Good:

```python
optimizer.load_state_dict(state["optimizer"])
for group in optimizer.param_groups:
    group.update(weight_decay=cfg.weight_decay, initial_lr=cfg.lr)
```

## How to fix

Put the configuration's settings over what was loaded, or refuse a resume whose settings are not the checkpoint's.

## Known limits

Keys of other names are left out: what a model or the data are built with cannot change. A setting of all stages is
looked at in the first one, a rate in each.

## Sources

PyTorch, `Optimizer.load_state_dict`; a fault of a reviewed trainer.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from gradgate.checks.launches import Update, first_parting, launch
from gradgate.checks.moved import in_words
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Point, Turns, Whole, equal_runs, points, program_of, read, seconds_for, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG676", "setting-ignored-on-resume"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "put the configuration's settings over what was loaded, or refuse a resume whose settings are others"
TAKEN = re.compile(
    r"(^|[._])(lr|learning_rate|rate|decay|betas?\d?|coefs?|coeff|coefficient|weight|clip|max_norm|grad_norm|tau|temperature"
    r"|temp|gamma|lam|lambda|alpha|eps|epsilon|smoothing)([._]|$)|_(lr|coef|coeff|decay|norm|weight|clip)$"
)


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Resume with another setting."""
    moves = list(_moves(subject))
    if not moves:
        return Outcome(not_applicable="the program has no `options=` that each update takes, such as a rate or a decay")
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    first, turns = runs[0], Turns(context)
    stops = [point for point in points(first.updates, 16) if point.saved]
    if not stops:
        return Outcome(not_applicable="the program writes no checkpoint in front of its last update")
    findings = []
    plain = {point.update: _resumed(subject, context, point, {}) for point in _one_a_stage(stops, first)}
    for settings in turns.of(moves):
        said = {update: _ignored(subject, context, update, run, settings, first) for update, run in plain.items()}
        ignored = [update for update, is_so in said.items() if is_so]
        if ignored:
            text = f"resumed behind update {ignored[0]} of {len(first.updates)}{in_words(settings)}, the program makes"
            findings.append(_finding(f"{text} the same updates as without, and says nothing", next(iter(settings))))
    return Outcome(tuple(findings), {"settings": turns.made})


def _moves(subject: Subject) -> Iterator[dict[str, Any]]:
    for key, values in program_of(subject).options.items():
        if TAKEN.search(key.lower()):
            yield {key: values[1]}


def _one_a_stage(stops: list[Point], first: Whole) -> list[Point]:
    """The first of the points for each optimizer."""
    found: dict[int, Point] = {}
    for point in stops:
        found.setdefault(first.updates[point.update - 1].optimizer, point)
    return list(found.values())


def _resumed(subject: Subject, context: Context, point: Point, settings: dict[str, Any]) -> Whole:
    folder, seconds = context.folder / "changed", seconds_for(subject, context)
    kept = context.folder / f"stopped{point.update}"
    if not kept.exists():
        launch(subject, kept, stop=point.update, seconds=seconds)
    shutil.copytree(kept, folder)
    found = read(launch(subject, folder, settings, resume=True, seconds=seconds), folder)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _ignored(
    subject: Subject, context: Context, update: int, plain: Whole, settings: dict[str, Any], first: Whole
) -> bool | None:
    """Whether the rest of a stage is the same with a setting that makes others from the start; None: not to be said."""
    if plain.launched.end != "ended" or not plain.updates:
        return None
    fresh = whole(subject, context, settings)
    if fresh.launched.end != "ended" or not _reaches(fresh, first, first.updates[update - 1].optimizer):
        return None
    found = _resumed(subject, context, Point(update, None, ""), settings)
    if found.launched.end != "ended":
        return False
    return first_parting(_of_first(found), _of_first(plain)) is None


def _reaches(fresh: Whole, first: Whole, optimizer: int) -> bool:
    """Whether a setting changes what an optimizer does: it is the first to make another update, or its rates differ."""
    parting = first_parting(fresh.updates, first.updates)
    if parting is None or parting >= len(first.updates):
        return False
    rates = ([one.rates for one in run.updates if one.optimizer == optimizer] for run in (fresh, first))
    return first.updates[parting].optimizer == optimizer or next(rates) != next(rates)


def _of_first(found: Whole) -> Sequence[Update]:
    """The updates of the stage that was resumed."""
    return [one for one in found.updates if one.optimizer == found.updates[0].optimizer]


def _finding(message: str, key: str) -> Finding:
    return Finding(CODE, NAME, message, severity="warning", fix=FIX, detail={"key": key})
