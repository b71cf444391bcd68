"""A table of presets that stands in a module is written in place: what one run sets is there for the next.

## What it detects

`data = PRESETS[name]` and `deep_merge(data, overrides)`, where `deep_merge` writes into its first argument;
`DEFAULTS.update(given)`.

## Why it matters

The second configuration that a process loads has the overrides of the first: stage 2 those of stage 1, each trial of a
search those of the trial before, each test those of another test. Nothing in its own file or command line says so.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Tables are names in capitals
that say presets, defaults, a base, settings or the like, to which a module's top level assigns a mapping, or a list,
that is not empty. Findings are functions that write into one, into an entry of it, or into a name that holds either and
no copy: by an item, `update`, `setdefault`, `pop`, `append` and the like, or by giving it to a function of the
trainer's that does that to its parameter, or gives it on to one that does. Tables of classes or functions are there to
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

Tables that are imported under another name are not seen, nor shallow copies whose inner sections are written.

## Sources

Python's FAQ, "Why are default values shared between objects?", of the same mistake with defaults.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache

from gradgate.checks.source_places import Place, Places, read_place_by_place
from gradgate.checks.source_values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG110", "constant-written-in-place"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WRITES = ("update", "setdefault", "pop", "popitem", "clear", "append", "extend", "insert", "remove")
TABLES = re.compile(r"PRESET|DEFAULT|BASE|CONFIG|RECIPE|TEMPLATE|PROFILE|SETTING|OPTION|PARAMS|VARIANT|EXPERIMENT")
HOPS = 3


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what writes into a module's tables."""
    return read_place_by_place(subject, lambda _: True, _found, "constants_written")


def _found(place: Place, places: Places) -> Iterator[Finding]:
    tables = _tables(places)
    if not tables or not place.file.has(*tables) or re.search(r"(^|_)(un)?register(_|$)", place.name):
        return
    for node, written in _writes(place, places):
        name = _table_of(written, place)
        if name in tables:
            text = f"{place.name}() writes into `{name}`, which the module keeps: what it sets is there for the next"
            at = place.file.at(node, place.name)
            yield Finding(CODE, NAME, f"{text}; allowed: a copy", culprit=at, fix="take a copy, a deep one")


@lru_cache(maxsize=1)
def _tables(places: Places) -> set[str]:
    """The names in capitals of mappings and lists that are not empty."""
    return {
        target.id
        for top in places.all
        if top.is_top
        for target, value in assignments_in(top.nodes)
        if isinstance(target, ast.Name) and target.id.isupper() and TABLES.search(target.id)
        if _is_of_values(value)
    }


def _is_of_values(table: ast.expr) -> bool:
    """Whether a mapping or a list holds something, and no classes or functions, as a register does."""
    if isinstance(table, ast.Dict):
        return bool(table.values) and not any(isinstance(each, ast.Name | ast.Attribute) for each in table.values)
    return isinstance(table, ast.List) and bool(table.elts) and not isinstance(table.elts[0], ast.Name | ast.Attribute)


def _table_of(written: ast.expr, place: Place) -> str:
    """The name of what an expression is, or an entry of."""
    held = place.names.held(written)
    while isinstance(held, ast.Subscript):
        held = place.names.held(held.value)
    is_own = isinstance(held, ast.Name) and held.id in place.parameters
    return held.id if isinstance(held, ast.Name) and not is_own else ""


def _writes(place: Place, places: Places, hops: int = HOPS) -> Iterator[tuple[ast.AST, ast.expr]]:
    """What a function writes into, and where."""
    for node in place.nodes:
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        targets = [node.target] if isinstance(node, ast.AugAssign) else targets
        yield from ((node, each.value) for each in targets if isinstance(each, ast.Subscript))
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
            yield node, node.func.value
        called = places.called(node, place) if hops else None
        if called is not None and called is not place:
            written = {_parameter_of(each, called) for _, each in _writes(called, places, hops - 1)}
            yield from ((node, value) for name, value in called.given(node).items() if name in written)


def _parameter_of(written: ast.expr, place: Place) -> str:
    """The parameter that is written into itself, and not a name that it was copied to."""
    return written.id if isinstance(written, ast.Name) and written.id in place.parameters else ""
