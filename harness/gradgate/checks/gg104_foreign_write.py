"""The memory of a saved tensor is written with no torch operation: by numpy, DLPack or a kernel of one's own.

## What it detects

A numpy array, a DLPack export or a raw pointer that shares the memory of a tensor which backward reads, and is written
between forward and backward.

## Why it matters

There is no operation that PyTorch could notice. The gradient is silently wrong.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. Statistic: errors of this code. Allowed: 0. A warning (a fault that the recorder saw, and saw change
nothing) or a note (the code says that it is meant) is shown and does not fail the check. Where the run raises before
its end and no error of this code was seen, the check is inconclusive: GG100 says what the plain step does.

The recorder sees memory handed out (`numpy()`, `__dlpack__`, `data_ptr()`), takes a checksum of every saved tensor in
it and compares line by line until backward has used it. The culprit is the line after which the checksum differs.
False-alarm rate: as GG103.

## Example

Bad:

```python
picture = hidden_BSD.detach().numpy()
picture *= 2                                       # hidden_BSD was saved for backward
```

Good:

```python
picture = hidden_BSD.detach().numpy().copy()
```

## How to fix

Give the outside a copy: `.detach().cpu().numpy().copy()`, or clone what came from outside.

## Known limits

A fault that first shows after 5 steps, on another device or under other settings is not seen. Inside non-reentrant
checkpoints, and in compiled code, the recorder sees little. Tensors above 4 MiB are compared at backward alone, without
the line.

## Sources

Fault GF-02 of the fault catalogue.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG104", "foreign-write"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
