"""Settings that are to make the same updates make others: a batch, and the same rows in micro-batches.

## What it detects

A mean over micro-batches of means whose counts differ; statistics (of returns, of weights, of a batch) that are moved
or taken once a micro-batch; a clip, a schedule or an average that is counted in micro-batches; a last micro-batch that
is left out or weighs otherwise; in any stage, and through the whole program.

## Why it matters

Accumulation is there so that a smaller machine makes the same training. Where it weighs rows otherwise, a result does
not carry over, and short rows weigh more than long ones.

## How it decides

For each pair of `Program.equal` the program is launched twice, without dropout, and with every parameter put back
behind each step, so that all updates are of one model. Statistic: the largest relative distance of the norms of one
parameter's gradient between the two, over the first two updates of each stage, against the largest of the gradient's
norms; allowed: 1e-3, far above rounding, which is 1e-6 of it, and far below what a wrong mean makes, some percent. A
number of updates that differs is a finding, too.

False-alarm rate: 0 where both settings draw the same rows for each update.

## Example

Bad:

```python
for part in parts:
    (loss(part) / len(parts)).backward()              # a mean of means, each over its own count
```

Good:

```python
total = sum(part["mask"].sum() for part in parts)
for part in parts:
    (loss_sum(part) / total).backward()
```

## How to fix

Sum over the micro-batches and divide by the count of all; move statistics once an update, with all its rows.

## Known limits

Where batches are made by length, or an order is drawn that depends on the size of a batch, the rows are not the same:
declare no pair then. Normalisation over a batch differs by nature.

## Sources

Hugging Face, Fixing gradient accumulation (2024); faults of two reviewed trainers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradgate.checks.launches import Update
from gradgate.checks.moved import in_words
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Turns, equal_runs, program_of, starts, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG494", "equal-settings-differ"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
ALLOWED = 1e-3
FIRST = 2  # updates of a stage: behind them an epoch may end, and one way or the other leave a short batch
FIX = "sum over the micro-batches and divide by the count of all; move statistics once an update, with all its rows"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Launch each pair, at parameters that stand still."""
    pairs = program_of(subject).equal
    if not pairs:
        return Outcome(not_applicable="the program has no `equal=`: pairs of settings that are to train alike")
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    turns, worst = Turns(context), 0.0
    findings: list[Finding] = []
    for one, other in turns.of(pairs):
        ours, theirs = (whole(subject, context, settings, still=True) for settings in (one, other))
        if "slow" in (ours.launched.end, theirs.launched.end):
            continue
        bad = next((run for run in (ours, theirs) if run.launched.end != "ended"), None)
        if bad is not None:
            told = in_words(one if bad is ours else other)
            findings.append(_finding(f"the program {bad.launched.in_words}{told}", one, victim=bad.launched.place))
            continue
        sides = f"{_words(one)} and {_words(other)}"
        if len(ours.updates) != len(theirs.updates):
            text = f"with {sides} the program makes {len(ours.updates)} updates and {len(theirs.updates)}"
            findings.append(_finding(f"{text}; declared: the same", one))
            continue
        first = [at for start in starts(ours.updates) for at in range(start, min(start + FIRST, len(ours.updates)))]
        apart = {at: _apart(ours.updates[at], theirs.updates[at]) for at in first}
        at = max(apart, key=apart.__getitem__)
        worst = max(worst, apart[at])
        if apart[at] > ALLOWED:
            text = f"with {sides} the gradient of update {at + 1} of {len(ours.updates)} is another one"
            findings.append(_finding(f"{text}: {apart[at]:.2g} of its norm apart, allowed: {ALLOWED:g}", one))
    return Outcome(tuple(findings), {"distance": worst}, {"distance": ALLOWED})


def _apart(one: Update, other: Update) -> float:
    largest = max([*one.gradients, *other.gradients, 1e-30])
    if len(one.gradients) != len(other.gradients):
        return float("inf")
    return max((abs(a - b) / largest for a, b in zip(one.gradients, other.gradients, strict=True)), default=0.0)


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items()) or "the configured settings"


def _finding(message: str, settings: Mapping[str, Any], **places: Any) -> Finding:
    return Finding(CODE, NAME, message, fix=FIX, detail={"settings": dict(settings)}, **places)
