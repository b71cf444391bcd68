"""An iterator is kept by an object, and gone through by each call of a method: from the second one on it is empty.

## What it detects

Pairs of parameters of an average and its model (`zip`), a `map`, a `filter`, a generator expression or what
`parameters()` gives, that the constructor keeps in an attribute, and that each update goes through.

## Why it matters

The first call does all of its work, and every later one nothing, without an error: a target network that moved once, a
norm that is taken once, weights that are averaged once.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Found are attributes that a
constructor assigns the call of `zip`, `map`, `filter`, `enumerate`, `reversed` or `iter`, a generator expression, or a
module's `parameters()`, `named_parameters()`, `buffers()`, `modules()` and the like, and that another method of the
class goes through with `for`, a comprehension, or a function that takes all of it (`list`, `sum`, `zip` and so on).
Not so where the attribute is assigned anything else somewhere, is asked by `next`, is given to another function, or is
what a method returns. Statistic: such attributes; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
self.pairs = zip(self.shadow.parameters(), model.parameters())
```

Good:

```python
self.pairs = list(zip(self.shadow.parameters(), model.parameters()))
```

## How to fix

Keep a list.

## Known limits

Iterators that a function of the trainer's returns, and those of local variables, are not followed.

## Sources

Python's glossary, *iterator*; a convergence fault of a trainer of the catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG666", "iterator-kept"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MAKES = ("zip", "map", "filter", "enumerate", "reversed", "iter")
OF_MODULES = ("parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules", "children")
TAKES = ("list", "tuple", "set", "sum", "max", "min", "any", "all", "sorted", "zip", "enumerate", "map", "filter")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for attributes that are empty from the second time."""
    asks = [(*(f"= {name}(" for name in MAKES), *(f".{name}()" for name in OF_MODULES), " for ")]
    return read_as_one(subject, asks, _find, "iterators")


def _find(own: Places) -> Iterator[Finding]:
    for methods in _classes(own):
        assigned: dict[str, list[tuple[ast.expr, Place]]] = {}
        for place in methods:
            for target, value in assignments_in(place.nodes):
                if dotted(target).startswith("self.") and dotted(target).count(".") == 1:
                    assigned.setdefault(dotted(target), []).append((value, place))
        for name, values in assigned.items():
            if not all(_is_iterator(value) for value, _ in values) or _is_asked(name, methods):
                continue
            makers = {place.name for _, place in values}
            takers = [place for place in methods if place.name not in makers and _goes_through(name, place)]
            if takers and makers <= {"__init__", "__post_init__", "setup", "build"}:
                value, place = values[0]
                yield _finding(name, value, place, takers[0])


def _classes(own: Places) -> Iterator[list[Place]]:
    seen: set[int] = set()
    for place in own.functions:
        if place.owner is not None and id(place.owner) not in seen:
            seen.add(id(place.owner))
            yield list(own.methods_of(place.owner))


def _is_iterator(value: ast.expr) -> bool:
    if isinstance(value, ast.GeneratorExp):
        return True
    if not isinstance(value, ast.Call):
        return False
    if isinstance(value.func, ast.Name):
        return value.func.id in MAKES
    return isinstance(value.func, ast.Attribute) and value.func.attr in OF_MODULES


def _is_asked(name: str, methods: list[Place]) -> bool:
    """Whether an attribute is asked by `next`, is returned, or is handed to something that may keep its place."""
    for place in methods:
        for node in place.nodes:
            if isinstance(node, ast.Return) and node.value is not None and dotted(node.value) == name:
                return True
            if not isinstance(node, ast.Call) or called_name(node) in TAKES:
                continue
            if name in map(dotted, given_by(node)):
                return True
    return False


def _goes_through(name: str, place: Place) -> bool:
    for node in place.nodes:
        if isinstance(node, ast.For | ast.comprehension) and dotted(node.iter) == name:
            return True
        if isinstance(node, ast.Call) and called_name(node) in TAKES and name in map(dotted, given_by(node)):
            return True
    return False


def _finding(name: str, value: ast.expr, place: Place, taker: Place) -> Finding:
    text = f"`{name}` is an iterator, `{ast.unparse(value)[:50]}`, and {taker.name}() goes through it each time"
    return Finding(
        CODE,
        NAME,
        f"{text}: from the second time it is empty; allowed: a list",
        culprit=place.file.at(value, place.name),
        fix="keep a list",
    )
