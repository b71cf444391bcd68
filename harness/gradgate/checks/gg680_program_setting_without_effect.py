"""A setting of the program changes nothing: not what it trains, not what it logs, not what it leaves in its folder.

## What it detects

A key of the configuration that is read and not used: an interval of checkpoints, evaluations or log lines that is
another one's, checkpoints that are kept whatever their number, a patience that ends nothing; a key of the command line
that a default, a preset or a section overrides.

## Why it matters

Somebody sets it, and takes the result for its own.

## How it decides

The program is launched with every further value of each key of `Program.watching` and `Program.options`; keys that
`gradgate.options_of` guessed are left to GG414. A value has an effect where an update, a record of the log (times and
what two equal runs have otherwise left out), a file's name or a value in a file differs. A key that names a patience is
moved in runs whose parameters stand still, so that nothing gets better. Where nothing differs, the key is moved once
more with all switches of `options` flipped; fails where nothing differs then, either.

False-alarm rate: 0 for a key that acts in the small program as it is configured, or with its switches flipped.

## Example

Bad:

```python
keep = 3                                       # cfg.keep_last is never asked
```

Good:

```python
for old in checkpoints[: -cfg.keep_last]:
    old.unlink()
```

## How to fix

Use the key, or take it out of the configuration.

## Known limits

A key that acts beyond the small program's length (an interval of 1000 updates) shows no effect: give it values that
do, or leave it out.

## Sources

Faults of the category configuration in the trainers that the catalogue was tried on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradgate.checks.launches import first_parting
from gradgate.checks.moved import in_words
from gradgate.checks.snapshot import first_difference
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import (
    PATIENCE,
    Turns,
    Whole,
    equal_runs,
    lacking,
    moves_of,
    program_of,
    switched,
    unstable,
    unstable_values,
    whole,
)
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject
from gradgate.subjects.settings import Guessed

CODE, NAME = "GG680", "program-setting-without-effect"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "use the key where it is meant to act, or take it out of the configuration"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Move each key, and look for any difference."""
    program = program_of(subject)
    declared = {**program.watching, **program.options}
    moves = list(moves_of({key: values for key, values in declared.items() if not isinstance(values, Guessed)}))
    if not moves:
        return Outcome(not_applicable="the program has no `watching=` and no `options=`")
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    flipped = (switched(program) or [{}])[0]
    turns, findings = Turns(context), list[Finding]()
    for settings in turns.of(moves):
        if not any(_acts(subject, context, settings, behind) for behind in ({}, flipped)):
            text = "the program trains, logs and leaves the same"
            findings.append(Finding(CODE, NAME, f"{text}{in_words(settings)}", fix=FIX, detail=dict(settings)))
    return Outcome(tuple(findings), {"settings": turns.made})


def _acts(subject: Subject, context: Context, settings: Mapping[str, Any], behind: Mapping[str, Any]) -> bool:
    """Whether settings change anything over others, or cannot be run."""
    still = any(PATIENCE.search(key.lower()) for key in settings)
    base = {key: value for key, value in behind.items() if key not in settings}
    one, other = (whole(subject, context, given, still=still) for given in (base, {**base, **settings}))
    if one.launched.end != "ended" or other.launched.end != "ended":
        return bool(one.launched.end == "ended")
    second = whole(subject, context, base, still=still, turn=1)
    return _differ(one, other, unstable(one, second, program_of(subject)), unstable_values(one, second))


def _differ(one: Whole, other: Whole, names: frozenset[str], values: frozenset[tuple[str, str]]) -> bool:
    if first_parting(one.updates, other.updates) is not None or one.files != other.files:
        return True
    if any(True for _ in lacking(one, other, names)) or any(True for _ in lacking(other, one, names)):
        return True
    return any(
        first_difference(
            *({key: value for key, value in each[file].items() if (file, key) not in values} for each in both)
        )
        for both in [(one.contents, other.contents)]
        for file in one.contents
    )
