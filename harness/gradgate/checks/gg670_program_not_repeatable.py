"""The program, started twice with the same settings, trains differently, or does not come to its end.

## What it detects

A program that breaks between its stages, at its last evaluation or with its last checkpoint; one that draws random
numbers in front of its seed or from a generator that it does not seed; an order of files, of a set or of threads that
reaches the training; the clock in a seed.

## Why it matters

A run that cannot be repeated cannot be compared: not with its resumed self, and not with the next change of the code.

## How it decides

`Program.launch` is called twice, each time in a process of its own with an empty folder, and every step of every
optimizer is observed. Statistic: the number of the first update behind which a parameter differs in any bit; allowed:
none. A launch that raises, hangs, exits with another code than 0, or makes no step of an optimizer is a finding, too.

False-alarm rate: 0 on the CPU with one thread, which a launch has.

## Example

Bad:

```python
rows = list(set(rows))                  # the order of a set of texts is another one in each process
seed = int(time.time())
```

Good:

```python
rows = sorted(set(rows))
torch.manual_seed(cfg.seed)
```

## How to fix

Seed every generator first, and take no order from a set, a folder or a clock.

## Known limits

Both launches have the hash seed of the process that makes them: an order by `hash()` is not seen (GG474 reads it in
the source). Optimizers that are not derived from `torch.optim.Optimizer` are not observed.

## Sources

PyTorch, Reproducibility.
"""

from __future__ import annotations

from gradgate.checks.launches import first_parting
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Whole, first_run, parted, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG670", "program-not-repeatable"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "seed every generator first, and take no order from a set, a folder or a clock"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Start the program twice."""
    first = first_run(subject, context)
    if isinstance(first, Outcome):
        return first
    if said := _went_wrong(first):
        place = first.launched.place
        fix = "start the program by hand with the adapter's settings, and let it come to its end in a few seconds"
        return Outcome((Finding(CODE, NAME, said, victim=place, fix=fix, detail={"end": first.launched.end}),))
    second = whole(subject, context, turn=1)
    at = first_parting(first.updates, second.updates)
    measured = {"updates": len(first.updates), "seconds": round(first.launched.seconds, 2)}
    if at is None:
        return Outcome(measured=measured)
    text = f"two launches with the same settings part at update {at + 1} of {len(first.updates)}"
    far = parted(first.updates, second.updates, at)
    return Outcome((Finding(CODE, NAME, f"{text}: {far}; allowed: none", "nondeterminism", fix=FIX),), measured)


def _went_wrong(found: Whole) -> str:
    launched = found.launched
    if launched.end != "ended":
        return f"the program does not come to its end behind {len(found.updates)} updates, it {launched.in_words}"
    return "" if found.updates else "the program comes to its end, and no optimizer of torch has made a step"
