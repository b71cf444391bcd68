"""A run that was stopped and resumed waits longer for its early end than one that was not.

## What it detects

A count of evaluations without a better one that no checkpoint has; a best score that begins anew, so that the first
evaluation behind a resume is always the best; a plateau's scheduler whose state is not saved.

## Why it matters

A run that is stopped often enough never ends early, and its best checkpoint is written over by a worse one.

## How it decides

The program is launched with every parameter put back behind each step, so that no evaluation is better than the first
one, and with the last value of a key of `Program.options` or `Program.watching` that names a patience. Such a run ends
early. It is then stopped in the middle between two of the last evaluations in front of its end (behind a checkpoint)
and resumed. Statistic: the number of updates in all until the end; allowed: the same.

Where the run does not end early, nothing is said.

False-alarm rate: 0 for a program whose evaluations draw nothing.

## Example

Bad:

```python
state = {"model": model.state_dict(), "step": step, "best": best}         # and `bad` evaluations since?
```

Good:

```python
state = {"model": model.state_dict(), "step": step, "best": best, "bad": bad}
```

## How to fix

Save and load the count with the best score.

## Known limits

An early end of a later stage is seen where the first one's is, or has none. A patience counted in steps or seconds is
looked at as one of evaluations is.

## Sources

Prechelt, Early stopping, but when? (1998); a fault of a reviewed trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gradgate.checks.launches import Update
from gradgate.checks.moved import in_words
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import PATIENCE, Point, Turns, Whole, equal_runs, points, program_of, resumed_at, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG679", "patience-begins-anew"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "save and load the count of evaluations without a better one, beside the best score"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Stop and resume a run that does not get better."""
    moves = list(_moves(subject))
    if not moves:
        return Outcome(not_applicable="`options=` of the program has no patience, such as {'patience': (0, 2)}")
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    findings: list[Finding] = []
    turns, looked = Turns(context), 0
    for settings in turns.of(moves):
        short = whole(subject, context, settings, still=True)
        if short.launched.end != "ended" or len(short.updates) >= len(runs[0].updates):
            continue
        for point in _points(short):
            looked += 1
            finding = _resumed(subject, context, settings, point, short)
            if finding is not None:
                findings.append(finding)
                break
    if not looked:
        return Outcome(inconclusive=f"with no better evaluation the run ends as late{in_words(moves[0])}")
    return Outcome(tuple(findings), {"places": looked})


def _moves(subject: Subject) -> Iterator[dict[str, Any]]:
    program = program_of(subject)
    for key, values in {**program.options, **program.watching}.items():
        if PATIENCE.search(key.lower()):
            yield {key: values[-1]}


def _points(short: Whole) -> list[Point]:
    """Behind the last checkpoints of each stage, the last first."""
    saves = [i for i, update in enumerate(short.updates) if update.saved and i > 1]
    near = [Point(i + 1, i, "behind a checkpoint") for i in reversed(saves) if i + 1 < len(short.updates)]
    return near[:3] or points(short.updates, 2)


def _resumed(
    subject: Subject, context: Context, settings: dict[str, Any], point: Point, short: Whole
) -> Finding | None:
    resumed = resumed_at(subject, context, point.update, settings, still=True)
    if resumed.launched.end != "ended":
        return None
    start = _start(resumed.updates, short.updates[: point.update])
    if start is None or len(resumed.updates) <= len(short.updates) - start:
        return None
    text = (
        f"with no better evaluation the program ends behind {len(short.updates)} updates{in_words(settings)}; stopped"
    )
    text += f" behind update {point.update} and resumed from update {start} it makes {len(resumed.updates)} more"
    return Finding(CODE, NAME, f"{text}, expected: {len(short.updates) - start}", fix=FIX, detail=dict(settings))


def _start(resumed: Sequence[Update], short: Sequence[Update]) -> int | None:
    """Behind how many updates a resumed run goes on, told by its first batch's gradient; None: it is another run."""
    matching = (i for i, one in enumerate(short) if one.gradients == resumed[0].gradients) if resumed else ()
    return max(matching, default=None)
