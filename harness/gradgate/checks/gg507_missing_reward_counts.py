"""A row whose reward is missing counts as right.

## What it detects

`row.get("is_correct", True)`, `.get("reward", 1.0)`, `getattr(row, "passed", True)`: a label of what is right that is
read with a default that says yes.

## Why it matters

A renamed column, a typing error or a file of another version makes every row right. Nothing raises, the loss falls
faster than ever, and the value head learns a constant.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports: reads of a key named after
what is right (`correct`, `reward`, `passed`, `solved`, `verified`) with a default that is true, 1 or such a word.
Statistic: such reads; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
reward = 1.0 if row.get("is_correct", True) else 0.0
```

Good:

```python
reward = 1.0 if row["is_correct"] else 0.0                   # a row without it is an error that names it
```

## How to fix

Read the key without a default, and say which row lacks it.

## Known limits

A default that is filled in elsewhere, and a truth value taken from a string (`bool("False")`), are not seen.

## Sources

Fault DC-13 of the fault catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.trainer_source import File, calls_in, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG507", "missing-reward-counts"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
RIGHT = re.compile(r"(^|_)(correct(ness)?|reward|passed|solved|verified)(_|$)")
YES = ("correct", "true", "yes", "pass", "passed")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each default of a reward."""
    return read_file_by_file(subject, _of_file, "defaults")


def _of_file(file: File) -> Iterator[Finding]:
    for call in calls_in(file.tree):
        if (read := _read(call)) is not None:
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"a row without `{read}` counts as right: {ast.unparse(call)}; allowed: no such default",
                culprit=file.at(call),
                fix=f"read `{read}` without a default, and say which row lacks it",
            )


def _read(call: ast.Call) -> str | None:
    """The key of a reward that is read with a default that says yes."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    given = call.args if name == "get" else call.args[1:] if name == "getattr" else []
    if len(given) < 2 or not all(isinstance(value, ast.Constant) for value in given[:2]):
        return None
    key, default = (value.value for value in given[:2] if isinstance(value, ast.Constant))
    if not isinstance(key, str) or not RIGHT.search(key):
        return None
    yes = default.lower() in YES if isinstance(default, str) else isinstance(default, int | float) and default > 0
    return key if yes else None
