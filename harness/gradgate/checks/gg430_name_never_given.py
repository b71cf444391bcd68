"""A setting is held against names of which it may have none.

## What it detects

A precision that is checked to be `fp32` or `bf16`, and looked up in a table of `float32` and `bfloat16`; a kind that
the command line calls `reference`, and the code `ref`; a mode that was renamed where it is declared alone.

## Why it matters

A look-up with a default, or an `if`, says nothing: the run goes on with what the default is, and the setting is dead.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports). The names that a setting may
have are those that declare it: a `Literal` of a configuration's field, the `choices` of a command-line argument, words
under its name in a mapping (`{"precision": ("fp32", "bf16")}`). In each function the comparisons and look-ups of that
setting are taken together: read off a configuration, or a parameter that a call gives it for. Statistic: functions in
which a setting is held against names, none of which it may have. Allowed: 0.

False-alarm rate: 0 where a name is declared once; of two settings of one name the choices are taken together.

## Example

Bad:

```python
CHOICES = {"precision": ("fp32", "bf16")}
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
dtype = DTYPES.get(config.precision)                    # None, whatever it is
```

Good:

```python
DTYPES = {"fp32": None, "bf16": torch.bfloat16}
dtype = DTYPES[config.precision]
```

## How to fix

Use the same names in both places, and look up with `[...]`, so that a name which is not known raises.

## Known limits

A setting whose names are declared nowhere, and one of several names that is misspelt, are not found: GG414 moves those.

## Sources

A configuration fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from gradgate.checks.source.settings import SETTINGS
from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of
from gradgate.checks.source.values import Names, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.named_values import asked_in, choices_in, last_part, tables_in

CODE, NAME = "GG430", "name-never-given"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False

_Tables = Mapping[str, list[str]]
_Calls = dict[str, list[ast.Call]]  # by the last part of what is called


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what functions compare settings with against the names that those may have."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    declared = _declared(files)
    tables = _tables(files)
    calls: _Calls = {}
    for node in chain.from_iterable(file.nodes for file in files):
        if isinstance(node, ast.Call):
            calls.setdefault(called_name(node), []).append(node)
    found = [
        _finding(file, function, key, place, words, declared[key])
        for file in files
        for function, _ in file.functions
        for key, (place, words) in _held_against(function, tables[file.path], calls, declared).items()
        if not words & declared[key]
    ]
    measured = {"names_never_given": len(found), "settings": len(declared), "files": len(files)}
    return Outcome(tuple(found), measured, {"names_never_given": 0})


def _tables(files: tuple[File, ...]) -> dict[Path, dict[str, list[str]]]:
    """The tables that the names of each file stand for: its own, and constants that one file alone has."""
    own: dict[Path, dict[str, list[str]]] = {}
    for file in files:
        tables = own.setdefault(file.path, {})
        for name, words in tables_in(file.nodes):
            tables.setdefault(name, []).extend(words)
    times = Counter(chain.from_iterable(own.values()))
    shared = {
        name: words for tables in own.values() for name, words in tables.items() if name.isupper() and times[name] == 1
    }
    return {path: {**shared, **tables} for path, tables in own.items()}


def _declared(files: tuple[File, ...]) -> dict[str, set[str]]:
    """The names that each setting may have."""
    found: dict[str, set[str]] = {}
    for file in files:
        for node in file.nodes:
            for key, words in (*choices_in(node), *_literals(node)):
                if len(words) > 1:
                    found.setdefault(key, set()).update(words)
    return found


def _literals(node: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """The field of a configuration that is one of several words."""
    if isinstance(node, ast.ClassDef) and node.name.lower().endswith(SETTINGS):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.annotation, ast.Subscript):
                held = field.annotation.slice
                each = held.elts if isinstance(held, ast.Tuple) else [held]
                words = [part.value for part in each if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                if dotted(field.annotation.value).endswith("Literal") and len(words) == len(each):
                    yield dotted(field.target), words


def _held_against(
    function: Function, tables: _Tables, calls: _Calls, declared: Mapping[str, set[str]]
) -> dict[str, tuple[ast.expr, set[str]]]:
    """Settings that a function holds against words: the first place, and all words."""
    names, found = Names(function), dict[str, tuple[ast.expr, set[str]]]()
    for node in own_nodes(function) if declared else ():
        asked, words = asked_in(node, tables)
        if asked is None or not words:
            continue
        held = names.held(asked)
        key = last_part(held)
        if key in declared and (_is_read(held) or _is_given(function, key, calls)):
            place, known = found.get(key, (asked, set()))
            found[key] = place, known | set(words)
    return found


def _is_read(asked: ast.expr) -> bool:
    """Whether it is read off a configuration."""
    return isinstance(asked, ast.Attribute | ast.Subscript) and last_part(asked.value).lower().endswith(SETTINGS)


def _is_given(function: Function, key: str, calls: _Calls) -> bool:
    """Whether a parameter of that name is given what a configuration has under it."""
    names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    if key not in names:
        return False
    place = names.index(key) - (names[0] in ("self", "cls"))
    given = chain.from_iterable(
        [word.value for word in call.keywords if word.arg == key] + call.args[place : place + 1]
        for call in calls.get(function.name, ())
    )
    return any(_is_read(value) and last_part(value) == key for value in given)


def _finding(file: File, function: Function, key: str, place: ast.expr, words: set[str], declared: set[str]) -> Finding:
    held, may = (", ".join(map(repr, sorted(names))) for names in (words, declared))
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() holds `{key}` against {held}; it may be {may}, and is none of these; allowed: none",
        culprit=file.at(place, function.name),
        fix="use one set of names, and look up with [...], so that a name which is not known raises",
        detail={"key": key, "held_against": sorted(words), "declared": sorted(declared)},
    )
