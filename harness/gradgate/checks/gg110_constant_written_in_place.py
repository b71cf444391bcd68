"""A table of presets that stands in a module is written in place: what one run sets is there for the next.

## What it detects

`data = PRESETS[name]` and `deep_merge(data, overrides)`, where `deep_merge` writes into its first argument;
`DEFAULTS.update(given)`; `config = dict(DEFAULTS)`, a shallow copy, and a merge that writes into its sections.

## Why it matters

The second configuration that a process loads has the overrides of the first: stage 2 those of stage 1, each trial of a
search those of the trial before, each test those of another test. Nothing in its own file or command line says so.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Tables are names in capitals
that say presets, defaults, a base, settings or the like, to which a module's top level assigns a mapping, or a list,
that is not empty. Findings are functions that write into one, into an entry of it, or into a name that holds either and
no copy: by an item, `update`, `setdefault`, `pop`, `append` and the like, or by giving it to a function of the
trainer's that does that to its parameter, or gives it on to one that does. A copy (`dict(TABLE)`, `TABLE.copy()`,
`{**TABLE}`, one that a function makes) has the table's own sections: what is written in one of those, by a key, by a
name that walks down, or by a merge that calls itself, is a finding as well, where the table has sections and no copies
of them were put in. Tables of classes or functions are there to
be written, and so is what a function that registers writes.

Statistic: such writes; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
data = PRESETS[name]
for key, value in overrides.items():
    data[key] = value
```

Good:

```python
data = copy.deepcopy(PRESETS[name])
for key, value in overrides.items():
    data[key] = value
```

## How to fix

Take a copy, a deep one where sections stand in sections.

## Known limits

Tables that are imported under another name are not seen.

## Sources

Python's FAQ, "Why are default values shared between objects?", of the same mistake with defaults.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeGuard

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import dotted
from gradgate.checks.source.values import assignments_in
from gradgate.checks.source.written_containers import written_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG110", "constant-written-in-place"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
TABLES = re.compile(r"PRESET|DEFAULT|BASE|CONFIG|RECIPE|TEMPLATE|PROFILE|SETTING|OPTION|PARAMS|VARIANT|EXPERIMENT")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what writes into a module's tables."""
    return read_place_by_place(subject, lambda _: True, _found, "constants_written")


def _found(place: Place, places: Places) -> Iterator[Finding]:
    tables = _tables(places)
    if not tables or re.search(r"(^|_)(add|(un)?register)(_|$)", place.name):
        return
    seen = set[int]()
    for each in written_in(place, places):
        if id(each.node) in seen or tables.get(each.root, 0) <= each.depth or each.is_own:
            continue
        seen.add(id(each.node))
        text = f"{place.name}() writes into `{each.root}`, which the module keeps: what it sets is there for the next"
        allowed = "allowed: a deep copy" if each.is_of_copy else "allowed: a copy"
        at = place.file.at(each.node, place.name)
        yield Finding(CODE, NAME, f"{text}; {allowed}", culprit=at, fix="take a copy, a deep one")


@lru_cache(maxsize=1)
def _tables(places: Places) -> dict[str, int]:
    """The names in capitals of mappings and lists that are not empty, with how many of them stand in one another."""
    return {
        target.id: _levels(value)
        for top in places.all
        if top.is_top
        for target, value in assignments_in(top.nodes)
        if isinstance(target, ast.Name) and target.id.isupper() and TABLES.search(target.id)
        if _is_of_values(value)
    }


def _levels(value: ast.expr | None) -> int:
    """How many mappings and lists stand in one another; what is made by a call may have more."""
    if isinstance(value, ast.Dict):
        return 1 + max(map(_levels, value.values), default=0)
    if isinstance(value, ast.List):
        return 1 + max(map(_levels, value.elts), default=0)
    return 1 + max((_levels(word.value) for word in value.keywords), default=0) if _is_dict(value) else 0


def _is_dict(value: ast.expr | None) -> TypeGuard[ast.Call]:
    return isinstance(value, ast.Call) and dotted(value.func) == "dict" and not value.args


def _is_of_values(table: ast.expr) -> bool:
    """Whether a mapping or a list holds something, and no classes or functions, as a register does."""
    if isinstance(table, ast.Dict):
        return bool(table.values) and not any(isinstance(each, ast.Name | ast.Attribute) for each in table.values)
    return isinstance(table, ast.List) and bool(table.elts) and not isinstance(table.elts[0], ast.Name | ast.Attribute)
