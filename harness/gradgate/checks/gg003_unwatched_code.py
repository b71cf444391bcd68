"""Compiled code runs in a step: what it does inside is not seen.

## What it detects

A step that calls what `torch.compile` made. The recorder leaves compiled code compiled, so that it watches what really
trains, and sees only what goes in and comes out.

## Why it matters

Every check that reads the recording (`gradgate rule --list`: those that *watch*) is blind inside. A green result then
says less than it seems to.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; all codes that the recorder knows are read from
that one recording. This code is a note at each line that calls compiled code. A note is shown and fails nothing.

## Example

Told:

```python
self.model = torch.compile(model)                  # the recorder does not see inside
```

Not told:

```python
self.model = torch.compile(model) if compiled else model
```

## How to fix

Let the adapter build the run uncompiled, and keep one stage that compiles: GG601 and the gates look at that as well. Or
set `TORCH_COMPILE_DISABLE=1`.

## Known limits

Code that was compiled ahead of time and custom kernels behave like one operation, and are not told.

## Sources

PyTorch documentation, `torch.compiler.set_stance`.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG003", "unwatched-code"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording."""
    return recorded(subject, stage, context).outcome(CODE)
