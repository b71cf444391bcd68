"""The program makes more or fewer updates than its configuration says.

## What it detects

A loop that is one step short or long; epochs whose last window of micro-batches is left out; a stage that ends with the
loader instead of the steps; steps that are counted in micro-batches and declared in updates; a stage that the program
leaves out.

## Why it matters

The schedule, the warm-up and the comparison with other runs are made for the declared number.

## How it decides

Steps of optimizers in a whole launch, of all stages, against `Program.updates`. Allowed: none more, none fewer.

False-alarm rate: 0 where the number is read from the configuration's documentation and nothing ends the run early.

## Example

Bad:

```python
for step in range(1, cfg.steps):
```

Good:

```python
for step in range(cfg.steps):
```

## How to fix

Count updates where the optimizer steps, and end where that count is reached.

## Known limits

Where one update steps several optimizers, each counts. A run that stops early on purpose has no declared number.

## Sources

Faults of loops of the trainers that the catalogue was tried on.
"""

from __future__ import annotations

from collections import Counter

from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import equal_runs, program_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG678", "updates-not-as-declared"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Count the steps of the optimizers."""
    declared = program_of(subject).updates
    if declared is None:
        return Outcome(not_applicable="the program has no `updates=`: how many its configuration asks for")
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    each = Counter(update.optimizer for update in runs[0].updates)
    measured, allowed = {"updates": sum(each.values())}, {"updates": declared}
    if measured["updates"] == declared:
        return Outcome((), measured, allowed)
    text = f"the program makes {measured['updates']} updates, declared: {declared}"
    several = ", ".join(f"optimizer {number + 1}: {count}" for number, count in sorted(each.items()))
    fix = "count updates where the optimizer steps, and end where that count is reached"
    return Outcome((Finding(CODE, NAME, f"{text} ({several})", fix=fix, detail=measured),), measured, allowed)
