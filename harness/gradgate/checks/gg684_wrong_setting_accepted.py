"""A setting that does not exist, or a value of no number, is accepted by the program.

## What it detects

A key that is misspelt, in any section: dropped, or added to the configuration where nobody reads it. A text where a
number belongs, that is kept as a text, taken for 0, or replaced by the default.

## Why it matters

The run takes the default, and its result is filed under the value that was meant.

## How it decides

The program is launched with a key that is there and a letter more (one of each section of `Program.options` and
`Program.watching`), and with the text `abc` for a key whose values are numbers (one of each section). A launch that
comes to its end is a finding. One that raises anything passes: what it says is the reader's to judge.

False-alarm rate: 0 for a program that refuses what it does not know.

## Example

Bad:

```python
for key, value in given.items():
    setattr(cfg, key, value)
```

Good:

```python
for key, value in given.items():
    if key not in fields:
        raise KeyError(f"unknown key {key!r}")
```

## How to fix

Refuse a key that the configuration has not, and convert a value to its field's type, or refuse it.

## Known limits

Only the way of `Program.launch` is tried, often the command line's; a file may be read otherwise (GG431).

## Sources

Faults of the category configuration in the trainers that the catalogue was tried on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Turns, equal_runs, program_of, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG684", "wrong-setting-accepted"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "refuse a key that the configuration has not, and a value that is no number where one belongs"
NO_NUMBER = "abc"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Launch with keys that are not there, and with texts for numbers."""
    moves = list(_moves(subject))
    if not moves:
        return Outcome(not_applicable="the program has no `watching=` and no `options=`")
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    turns, findings = Turns(context), list[Finding]()
    for settings, what in turns.of(moves):
        found = whole(subject, context, settings)
        if found.launched.end == "ended" and found.updates:
            (key, value), *_ = settings.items()
            text = f"the program comes to its end with {key} = {value}, {what}; allowed: a refusal"
            findings.append(Finding(CODE, NAME, text, fix=FIX, detail=dict(settings)))
    return Outcome(tuple(findings), {"launches": turns.made})


def _moves(subject: Subject) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The wrong settings, each with what is wrong."""
    program = program_of(subject)
    every = {**program.options, **program.watching}
    names: set[str] = set()
    numbers: set[str] = set()
    for key, values in every.items():
        section = key.rpartition(".")[0]
        value = values[0]
        if section not in names and f"{key}x" not in every:
            names.add(section)
            yield {f"{key}x": value}, f"a key that is not there, beside `{key}`"
        if section not in numbers and isinstance(value, int | float) and not isinstance(value, bool):
            numbers.add(section)
            yield {key: NO_NUMBER}, "which is no number"
