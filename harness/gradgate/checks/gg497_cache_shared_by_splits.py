"""A cache whose key is a row's number serves two sets of rows, and both are numbered from 0.

## What it detects

`Rows(train, cache)` and `Rows(val, cache)`, whose `__getitem__(index)` looks up `cache[index]`; a cache of the whole
file or class that is looked up so; a folder of `f"{index}.pt"` that both are given.

## Why it matters

Row 7 of the validation set gets the tokens, the reference's losses or the returns of row 7 of the training set. The
held-out loss is then that of training, in part or throughout, and looks better than it is.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked up by number is what
a function reads under nothing but an argument of its, or a loop's `enumerate`, that is named after a number (`index`,
`idx`, `i`, `row`, `position`), or under a file's name that is made of that number alone, and also writes so. A finding,
as a warning, is

* a class or a function that is given such a cache, or its folder, as the same name or attribute in two calls of one
  function, and other rows, where no other argument differs by a text (`split="val"`);
* a class whose cache is one of the class or the file, or a function with such a cache, that is called so twice.

Statistic: such caches; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
cache = {}
train, val = Rows(train_rows, cache), Rows(val_rows, cache)
```

Good:

```python
train, val = Rows(train_rows, {}), Rows(val_rows, {})
```

## How to fix

Give each set a cache of its own, or make the split, or a hash of the row, a part of the key.

## Known limits

An object that both a training loop and an evaluation ask by a number of the batch is not looked at, nor numbers that
are unique over all sets.

## Sources

A fault of a trainer that was read for the catalogue; `datasets` names its caches by a fingerprint of the rows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import combinations

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import Names, assignments_in, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG497", "cache-shared-by-splits"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
NUMBER = re.compile(
    r"^(i|j|k|n|idx|index|ix|row|pos|position|item|number|row_(id|idx|index|number)|(\w+_)?(idx|index))$"
)
CACHE = re.compile(r"cache|memo|seen|store|known|computed|held|lookup|encoded|saved", re.IGNORECASE)
STORES = ("save", "dump", "save_file", "write_bytes", "savez")
READS = re.compile(r"load|open|read|exists|is_file")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for caches by number that two sets of rows are given."""
    return read_place_by_place(subject, lambda file: file.has("[", "{"), _found, "caches")


def _found(place: Place, own: Places) -> Iterator[Finding]:
    for cache in sorted(set(_by_number(place))):
        name, parameter = _source(cache, place, own)
        makers = [caller for caller in own.all if any(called_name(node) == name for node in caller.nodes)]
        for here in makers if name else ():
            calls = [node for node in here.nodes if isinstance(node, ast.Call) and called_name(node) == name]
            same = next((two for two in combinations(calls, 2) if _shares(*two, parameter, place, here, own)), None)
            if same is not None:
                yield _finding(here, same[1], cache, place)
                break


def _by_number(place: Place) -> Iterator[str]:
    """The caches, or folders of them, that a function reads and writes by a number alone."""
    numbers = {each for each in place.parameters if NUMBER.search(each)}
    for node in place.nodes:
        if isinstance(node, ast.For) and called_name(node.iter) == "enumerate" and isinstance(node.target, ast.Tuple):
            numbers |= {dotted(places_of(node.target)[0])}
    if not numbers:
        return
    written, read = set[str](), set[str]()
    for node in place.nodes:
        if isinstance(node, ast.Subscript) and dotted(node.slice) in numbers:
            (written if isinstance(node.ctx, ast.Store) else read).add(dotted(node.value))
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            read |= {dotted(node.comparators[0])} if dotted(node.left) in numbers else set()
        elif isinstance(node, ast.Call) and called_name(node) in ("get", "setdefault") and node.args:
            of = dotted(node.func).rpartition(".")[0]
            if dotted(node.args[0]) in numbers:
                read.add(of)
                written |= {of} if called_name(node) == "setdefault" else set()
    yield from (name for name in written & read if CACHE.search(name))
    stores = any(isinstance(node, ast.Call) and called_name(node) in STORES for node in place.nodes)
    reads = any(isinstance(node, ast.Call) and READS.search(called_name(node)) for node in place.nodes)
    for node in place.nodes if stores and reads else ():
        joins = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _is_name(node.right, numbers)
        if joins and dotted(node.left):  # type: ignore[attr-defined]
            yield dotted(node.left)  # type: ignore[attr-defined]


def _is_name(node: ast.expr, numbers: set[str]) -> bool:
    """Whether a file's name is made of a number alone."""
    filled = [part.value for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
    return bool(filled) and all(dotted(part) in numbers for part in filled)


def _source(cache: str, place: Place, own: Places) -> tuple[str, str]:
    """What is called by which a cache is handed over, and the parameter; that is empty where all share one."""
    owner = place.owner
    of_class = {dotted(to) for to, _ in assignments_in(owner.body)} if owner is not None else set()
    if owner is not None and cache.partition(".")[0] in ("self", "cls", owner.name):
        name = cache.partition(".")[2]
        if name in of_class:
            return owner.name, name if _is_record(owner) else ""
        return owner.name, _kept(cache, owner, own) or "?"
    if owner is None and cache in place.parameters:
        return place.name, cache
    local = cache in place.parameters or any(dotted(to) == cache for to, _ in assignments_in(place.nodes))
    of_file = cache in {dotted(to) for to, _ in assignments_in(place.file.tree.body)}
    return (owner.name if owner is not None else place.name, "") if of_file and not local else ("", "")


def _kept(cache: str, owner: ast.ClassDef, own: Places) -> str:
    """The parameter that a class keeps as its cache, or as the folder of it."""
    for init in (each for each in own.methods_of(owner) if each.name == "__init__"):
        for target, value in assignments_in(init.nodes):
            kept = value.args[0] if called_name(value) == "Path" and len(value.args) == 1 else value  # type: ignore[attr-defined]
            if dotted(target) == cache and dotted(kept) in init.parameters:
                return dotted(kept)
    return ""


def _is_record(owner: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each) for each in owner.decorator_list)


def _shares(one: ast.Call, other: ast.Call, parameter: str, place: Place, here: Place, own: Places) -> bool:
    """Whether two calls give the same cache, and other rows, and nothing else that tells one from the other."""
    taker = place
    if place.owner is not None:
        taker = next((each for each in own.methods_of(place.owner) if each.name == "__init__"), place)
    given = [taker.given(call) for call in (one, other)]
    if parameter and (parameter not in given[0] or parameter not in given[1]):
        return False
    if parameter and not _are_same(given[0][parameter], given[1][parameter], here.names):
        return False
    both = {name: (given[0][name], given[1][name]) for name in given[0].keys() & given[1].keys() - {parameter}}
    differs = [
        pair for name, pair in both.items() if not NUMBER.search(name) and ast.unparse(pair[0]) != ast.unparse(pair[1])
    ]
    told = any(isinstance(value, ast.Constant) and isinstance(value.value, str) for pair in differs for value in pair)
    return bool(differs) and not told


def _are_same(one: ast.expr, other: ast.expr, names: Names) -> bool:
    """Whether two expressions are one cache: the same name, and not set anew in between."""
    if not dotted(one) or ast.unparse(one) != ast.unparse(other) or not last_name(one):
        return False
    return names.held(one) is names.held(other) or names.held(one) is one


def _finding(here: Place, call: ast.Call, cache: str, place: Place) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{f'{here.name}()' if here.name else 'the file'} lets two sets of rows share `{cache}`, which "
        f"{place.name}() looks up by a row's number: both are numbered from 0; allowed: one cache a set",
        severity="warning",
        culprit=here.file.at(call, here.name),
        fix="give each set a cache of its own, or make the split a part of the key",
    )
