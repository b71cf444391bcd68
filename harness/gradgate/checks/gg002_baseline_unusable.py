"""A stored baseline is truncated, tampered with or of a newer schema.

## What it detects

A file under `reports/baselines` that is cut off, holds the markers of a merge conflict, was edited by hand, lacks an
entry's parts, or was written by a newer gradgate.

## Why it matters

A baseline that cannot be read gates nothing. A check that then does not apply would look like one that found nothing.

## How it decides

Each `*.json` of the folder is read: it must parse, its schema must be known, and its digest, the SHA-256 of its
content without layout, must fit. Statistic: files that do not; allowed: 0. False-alarm rate: 0; files of other classes
of machine are read as well.

## Example

Bad:

```json
<<<<<<< HEAD
 "op_count": 311,
=======
 "op_count": 312,
>>>>>>> topic
```

Good:

```
gradgate baseline update --reason "one more operation for the mask"
```

## How to fix

Take either side of a conflict whole, then record anew: `gradgate baseline update --reason TEXT`. A newer schema wants a
newer gradgate.

## Known limits

Whoever edits a file and its digest together is believed: the digest guards against slips, not against intent.

## Sources

The format is this project's own: `docs/gates.md`.
"""

from __future__ import annotations

from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.gates.baselines import UPDATE, BaselineError, read_all
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG002", "baseline-unusable"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Read every stored baseline."""
    files = read_all(context.baselines) if context.baselines else {}
    if not files:
        return Outcome(not_applicable=f"no stored baselines in {context.baselines or 'this project'}")
    unusable = [error for error in files.values() if isinstance(error, BaselineError)]
    findings = tuple(Finding(CODE, NAME, str(error), fix=UPDATE) for error in unusable)
    return Outcome(findings, {"unusable_files": len(unusable), "files": len(files)}, {"unusable_files": 0})
