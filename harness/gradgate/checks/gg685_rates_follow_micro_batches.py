"""The rates of the program's updates change with the number of micro-batches that an update is made of.

## What it detects

A schedule that is stepped once a micro-batch; one whose length, or whose warm-up, is the steps times the micro-batches;
a rate that is scaled by a count that accumulation changes.

## Why it matters

With accumulation, which is there to change nothing but memory, the run ends in the middle of its decay, or in the first
half of it has no rate left.

## How it decides

The program is launched with every further value of each key of `Program.options` that says of how many micro-batches an
update is made. Where it makes as many updates, the rates of each must be those of the same update as it is configured,
to 1e-6. Statistic: the number of updates whose rates are others; allowed: 0. Where the number of updates is another
one, as where epochs are counted, nothing is said.

False-alarm rate: 0 where the steps that are configured are updates.

## Example

Bad:

```python
total = cfg.steps * cfg.accum                       # and the scheduler is stepped once an update
```

Good:

```python
total = cfg.steps
```

## How to fix

Count updates, and step the schedule where the optimizer steps.

## Known limits

A rate that is scaled on purpose by the size of a whole batch is a finding: name it as expected.

## Sources

Hugging Face, Performing gradient accumulation with Accelerate; faults of two trainers of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradgate.checks.moved import in_words
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Turns, equal_runs, moves_of, program_of, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG685", "rates-follow-micro-batches"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
ALLOWED = 1e-6


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Make updates of more micro-batches, and compare their rates."""
    options = program_of(subject).options.items()
    moves = list(moves_of({key: values for key, values in options if is_of_accumulation(key)}))
    if not moves:
        return Outcome(
            not_applicable="`options=` of the program has no count of micro-batches, such as {'accum': (1, 2)}"
        )
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    first, turns, compared = runs[0], Turns(context), 0
    findings = []
    for settings in turns.of(moves):
        other = whole(subject, context, settings)
        if other.launched.end != "ended" or len(other.updates) != len(first.updates):
            continue
        compared += 1
        pairs = zip(first.updates, other.updates, strict=True)
        apart = [i for i, (one, two) in enumerate(pairs) if not _alike(one.rates, two.rates)]
        if apart:
            at = apart[-1]
            told = f"{first.updates[at].rates[0]:.4g}, and {other.updates[at].rates[0]:.4g}{in_words(settings)}"
            text = f"{len(apart)} of {len(first.updates)} updates have other rates: update {at + 1} has {told}"
            fix = "count updates, and step the schedule where the optimizer steps"
            findings.append(Finding(CODE, NAME, f"{text}; allowed: the same", fix=fix, detail=dict(settings)))
    if not compared:
        return Outcome(inconclusive=f"the program makes another number of updates{in_words(moves[0])}, or does not end")
    return Outcome(tuple(findings), {"compared": compared})


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= ALLOWED * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True)
    )
