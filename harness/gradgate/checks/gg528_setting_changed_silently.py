"""A setting beyond a limit that is written in the code becomes that limit, and nobody is told.

## What it detects

A validator that gives back `max(value, 0.5)`; `self.tau = max(self.tau, 0.5)` in a `__post_init__`.

## Why it matters

A run that was asked for a temperature of 0.1 has one of 0.5, and its command line, its file and its name say 0.1. A
sweep over the temperature compares one value with itself.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding, as a warning, is
a value that a validator of settings gives back, or that is assigned to a field in `__post_init__` or to a setting of a
configuration, and that is `max` or `min` of itself and of a number that is written down, through names too. It is none
where that number is 0 or 1, or a thousandth or less, as what makes a setting possible at all; and where the function
logs, warns or prints. Statistic: such values; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones; where the documentation tells of the limit, it is
one.

## Example

Bad:

```python
@field_validator("tau")
def stable(cls, value):
    return max(value, 0.5)
```

Good:

```python
    if value < 0.5:
        raise ValueError(f"tau is {value}, expected at least 0.5")
    return value
```

## How to fix

Refuse the value with an error that names the limit, or warn of the change.

## Known limits

Limits that another setting gives, and fields that declare one (`ge=`), which refuse by themselves, are not looked at.

## Sources

A configuration fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.setting_sections import VALIDATORS, is_configuration
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG528", "setting-changed-silently"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LIMITS = ("max", "min")
SMALL = 1e-3  # a limit up to here makes a setting possible, as for a divisor
TELLS = re.compile(r"^(warn\w*|log|print|info|debug|error|echo)$")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for settings that are held at a number."""
    return read_place_by_place(subject, lambda file: file.has("max(", "min("), _of_place, "settings")


def _of_place(place: Place, _: Places) -> Iterator[Finding]:
    if any(isinstance(node, ast.Call) and TELLS.search(called_name(node)) for node in place.nodes):
        return
    for what, value in _settings(place):
        limit = _limit(place.names.held(value), what, place)
        if limit is not None:
            yield _finding(place, value, what, limit)


def _settings(place: Place) -> Iterator[tuple[str, ast.expr]]:
    """What a setting is called in a function, and what it is given there."""
    if place.decorators & VALIDATORS:
        for value in place.returned:
            yield from ((name, value) for name in place.positional)
    for target, value in assignments_in(place.nodes):
        if not isinstance(target, ast.Attribute | ast.Subscript):
            continue
        of_self = isinstance(target.value, ast.Name) and target.value.id == "self"
        if of_self if place.name == "__post_init__" else is_configuration(target.value):
            yield ast.unparse(target), value


def _limit(value: ast.expr, what: str, place: Place) -> ast.Constant | None:
    """The number that a setting is held at; None: it is not, or by one that makes it possible."""
    if not isinstance(value, ast.Call) or dotted(value.func) not in LIMITS or len(value.args) != 2 or value.keywords:
        return None
    others = [each for each in value.args if ast.unparse(_bare(each)) != what]
    held = place.names.held(others[0]) if len(others) == 1 else None
    number = held.value if isinstance(held, ast.Constant) else None
    if not isinstance(held, ast.Constant) or not isinstance(number, int | float) or isinstance(number, bool):
        return None
    return held if abs(number) > SMALL and number != 1 else None


def _bare(node: ast.expr) -> ast.expr:
    """A value without the conversions around it."""
    of_number = isinstance(node, ast.Call) and dotted(node.func) in ("float", "int") and len(node.args) == 1
    return _bare(node.args[0]) if of_number and isinstance(node, ast.Call) else node


def _finding(place: Place, value: ast.expr, what: str, limit: ast.Constant) -> Finding:
    kind = dotted(getattr(place.names.held(value), "func", value))
    beyond = "below" if kind == "max" else "above"
    told = f"{place.name}() makes {ast.unparse(limit)} of a `{what}` that is {beyond} it, and tells nobody"
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=f"{told}; allowed: an error, or a warning",
        culprit=place.file.at(value, place.name),
        fix="refuse the value with an error that names the limit, or warn of the change",
    )
