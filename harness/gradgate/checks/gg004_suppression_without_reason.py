"""A comment in the trainer's source silences a finding and gives no reason, or names no rule that there is.

## What it detects

`# gradgate: ignore[rule]` without `-- reason`, without a rule, or with the name of none, anywhere in the subject's
source.

## Why it matters

Whoever reads it a year later cannot tell a decision from a way to get home. Such a comment hides nothing; this rule is
how its author learns that.

## How it decides

Every Python file and notebook under `Subject(source=...)` is read, not run. Statistic: comments of that kind; allowed:
0. False-alarm rate: 0. Not applicable where the subject names no source.

## Example

Bad:

```python
x.mul_(2)  # gradgate: ignore[inplace-on-saved-tensor]
```

Good:

```python
x.mul_(2)  # gradgate: ignore[inplace-on-saved-tensor] -- x is a copy of our own
```

## How to fix

Write the reason behind `--`, or delete the comment and look at the finding.

## Known limits

A reason is not read: `-- because` counts as one. Files that cannot be decoded are left to `gradgate scan`, which tells.

## Sources

The ruff and mypy settings that want a code for each `noqa` and `type: ignore` (PGH003, PGH004).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gradgate.checks.rules import SUPPRESSIBLE
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.scan.sources import UnreadableError, decode, discover, read_bytes
from gradgate.scan.suppressions import complaints
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG004", "suppression-without-reason"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read the comments of the subject's source."""
    if subject.source is None:
        return Outcome(not_applicable="the subject names no source; Subject(source=FOLDER) enables it")
    found = tuple(_findings(Path(subject.source)))
    return Outcome(found, {"suppressions_without_reason": len(found)}, {"suppressions_without_reason": 0})


def _findings(folder: Path) -> Iterator[Finding]:
    for file in discover([folder], {}):
        try:
            lines = decode(file, read_bytes(file)).text.splitlines()
        except UnreadableError:
            continue
        for finding in complaints(str(file), lines, SUPPRESSIBLE):
            yield replace(finding, severity="error")
