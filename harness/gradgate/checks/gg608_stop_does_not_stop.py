"""Early stopping, or a limit on steps or epochs, overruns or undershoots.

## What it detects

A patience that never ends a run, ends only the inner loop, counts evaluations that were better, or forgets to start
anew behind one; a comparison the wrong way round; a limit on steps that is passed or missed by one; evaluations that
are made after every step, or hardly ever, whatever interval is asked for.

## Why it matters

A run that does not stop burns its budget; one that stops too early, or keeps the worst model, throws its result away.

## How it decides

The stage hands over its own loop (`Stage.loop`) with the evaluations replaced by given scores, smaller being better.
For each of these courses, with a patience of 2 and a limit of 12 steps, evaluated each second step, the number of steps
and of evaluations is compared with the rule: stop behind the first evaluation at which `patience` evaluations in a row
were not better than the best before them, else at the limit. A run to the limit makes 6 evaluations, or 7 where one
comes before any step.

Courses: ever better; ever worse; all equal; better again behind one that was worse; NaN from the second on; NaN at
first and ever better behind it; and each of them without patience. Statistic: courses that end elsewhere. Allowed: 0.
False-alarm rate: 0.

## Example

Bad:

```python
for epoch in range(epochs):
    for batch in batches:
        ...
        if worse >= patience:
            break                     # ends the epoch; the next one begins
```

Good:

```python
while not done and step < limit:
    ...
    done = worse >= patience
```

## How to fix

Let one condition decide for the whole loop; count evaluations since the best one, and start anew at a better one only.

## Known limits

Whether the first evaluation is made before any step is the trainer's choice: the scores are handed out in the order in
which it asks. That the best model is what is kept is not looked at.

## Sources

Faults OS-22 and CR-19 of the fault catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from gradgate.checks.loop_lines import line_of_evaluation, line_of_stop
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import SubjectRaisedError, calling, reports_raises
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Looped, Stage, Subject

CODE, NAME = "GG608", "stop-does-not-stop"
NEEDS: tuple[str, ...] = ("loop",)
PER_STAGE = True
LIMIT, EVERY, PATIENCE = 12, 2, 2
FIX = "let one condition decide for the whole loop, and count evaluations since the best one"
EXPECTED = (LIMIT // EVERY, LIMIT // EVERY + 1)  # without and with one before any step
EVALUATIONS = f"expected one every {EVERY}: {min(EXPECTED)} or {max(EXPECTED)}"
_MANY = 2 * LIMIT  # scores; a loop that asks for more of them than this has overrun long ago
COURSES: dict[str, tuple[float, ...]] = {
    "ever better": tuple(float(-i) for i in range(_MANY)),
    "ever worse": tuple(float(i) for i in range(_MANY)),
    "all equal": (1.0,) * _MANY,
    "better again behind one that was worse": (3.0, 4.0, 2.0, 2.5, 1.0, 1.5, 0.5, *(9.0,) * _MANY),
    "NaN from the second on": (1.0, *(math.nan,) * _MANY),
    "NaN at first and ever better behind it": (math.nan, *(float(-i) for i in range(_MANY))),
}


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Run the loop on each course, with and without patience."""
    assert stage.loop is not None  # noqa: S101 - NEEDS
    found: list[tuple[str, str, int | None]] = []
    courses = 0
    for course, scores in COURSES.items():
        for patience in (PATIENCE, None):
            try:
                with calling(f"loop() on scores that are {course}"):
                    looped = stage.loop(scores, patience=patience, max_steps=LIMIT, eval_every=EVERY)
            except SubjectRaisedError as raised:
                if patience is not None and isinstance(raised.error, NotImplementedError):
                    continue  # a loop without early stopping
                raise
            courses += 1
            found += [(text, course, patience) for text in _wrong(looped, scores, patience)]
    patience = PATIENCE if all(patient is not None for _, _, patient in found) else None
    counted = all(EVALUATIONS in text for text, _, _ in found)
    find = partial(_line, subject, stage, [course for _, course, _ in found], patience=patience, counted=counted)
    findings = [_finding(*one) for one in found]
    findings[:1] = [named(finding, find, context.seed) for finding in findings[:1]]
    findings[1:] = [replace(finding, culprit=findings[0].culprit) for finding in findings[1:]]
    measured = {"courses_that_end_elsewhere": len(findings), "courses": courses}
    return Outcome(tuple(findings), measured, {"courses_that_end_elsewhere": 0})


def _line(subject: Subject, stage: Stage, wrong: Sequence[str], *, patience: int | None, counted: bool) -> Line | None:
    """The line that decides wrongly, from a course that is ever better and one that is ever worse."""
    assert stage.loop is not None  # noqa: S101 - NEEDS
    loop = partial(stage.loop, patience=patience, max_steps=LIMIT, eval_every=EVERY)
    if counted and (found := line_of_evaluation(loop, subject.source, COURSES["all equal"])) is not None:
        return found
    return line_of_stop(loop, subject.source, COURSES["ever better"], COURSES["ever worse"], wrong, patience=patience)


def _wrong(looped: Looped, scores: Sequence[float], patience: int | None) -> list[str]:
    """What is not as the rule says; empty where all is."""
    stop = _stops_at(scores, patience)
    asked = looped.evaluations
    if stop is not None and stop <= asked and asked != stop:
        return [f"made {asked} evaluations and {looped.steps} steps, expected to stop behind evaluation {stop}"]
    if stop is not None and asked == stop:
        beyond = looped.steps - looped.last_evaluated
        return [f"made {beyond} more steps behind the evaluation that ends the run, expected 0"] if beyond else []
    if looped.steps != LIMIT:
        return [f"made {looped.steps} steps and {asked} evaluations, expected {LIMIT} steps"]
    if asked not in EXPECTED:
        return [f"made {asked} evaluations in {LIMIT} steps, {EVALUATIONS}"]
    return []


def _stops_at(scores: Sequence[float], patience: int | None) -> int | None:
    """The evaluation, from 1, behind which the rule stops; None where it never does."""
    best, worse = math.inf, 0
    for number, score in enumerate(scores, start=1):
        if score < best:
            best, worse = score, 0
        else:
            worse += 1
        if patience is not None and worse >= patience:
            return number
    return None


def _finding(text: str, course: str, patience: int | None) -> Finding:
    where = f"patience {patience}" if patience else "no patience"
    return Finding(CODE, NAME, f"scores {course}, {where}, a limit of {LIMIT} steps: {text}", fix=FIX)
