"""A program that has come to its end trains again when it is resumed.

## What it detects

A resume that decides by the last checkpoint whether a stage is finished, where the last steps came behind it or no
checkpoint was ever due; an end that does not count as one; a stage whose final file is not looked for, so that a later
start trains it anew, with what it writes over.

## Why it matters

Queues start a job again that is done, and people resume a folder to run the second stage. What was evaluated and
handed on is then no longer what lies there.

## How it decides

Behind a launch that came to its end, another one is made in the same folder with `resume`. Statistic: the updates that
it makes; allowed: 0. It is done with the configured settings and with every other value of `Program.watching`, so that
the interval of checkpoints divides the steps and does not. A launch that refuses, with an exit code or a ValueError,
passes; one that raises anything else does not.

False-alarm rate: 0 for a program that resumes what is finished by doing nothing.

## Example

Bad:

```python
finished = checkpoint["step"] >= cfg.steps        # the last checkpoint may be of an earlier step
```

Good:

```python
finished = (folder / "final.pt").exists()
```

## How to fix

Write a checkpoint at the end of each stage whatever the interval, or decide by the file that the end writes.

## Known limits

A program that trains further on purpose, with each start, declares the finding as expected.

## Sources

A fault of a reviewed trainer.
"""

from __future__ import annotations

import shutil
from typing import Any

from gradgate.checks.launches import launch
from gradgate.checks.moved import in_words
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Turns, equal_runs, moves_of, program_of, seconds_for
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG673", "finished-program-trains-again"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "write a checkpoint at the end of each stage whatever the interval, or decide by the file that the end writes"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Resume what has come to its end."""
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    findings: list[Finding] = []
    turns = Turns(context)
    for number, settings in enumerate(turns.of(({}, *moves_of(program_of(subject).watching)))):
        folder, seconds = context.folder / f"finished{number}", seconds_for(subject, context)
        done = launch(subject, folder, settings, seconds=seconds)
        again = launch(subject, folder, settings, resume=True, seconds=seconds) if done.end == "ended" else None
        shutil.rmtree(folder, ignore_errors=True)
        if again is None or again.end in ("refused", "slow"):
            continue
        if again.updates:
            text = f"resumed behind its end{in_words(settings)}, the program makes {len(again.updates)} more updates"
            findings.append(_finding(f"{text} behind {len(done.updates)}; allowed: 0"))
        elif again.end != "ended":
            text = f"resumed behind its end{in_words(settings)}, the program {again.in_words}"
            findings.append(_finding(text, victim=again.place))
    return Outcome(tuple(findings[:1]), {"launches": turns.made})


def _finding(message: str, **places: Any) -> Finding:
    return Finding(CODE, NAME, message, fix=FIX, **places)
