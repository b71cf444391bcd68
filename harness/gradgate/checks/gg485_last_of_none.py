"""The last of the largest is taken where their number may be 0.

## What it detects

`x.topk(int(share * n)).values[-1]`: for a small share, or few places, there is none, and the index fails.

## Why it matters

The run ends with an IndexError at the first batch that is small enough, hours after it began. `values[k - 1]` of an
order is worse: for 0 it is the last of all, and everything is kept.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are `[-1]`,
`[k - 1]`, `.min()` and `.max()` of the values of a `topk`, and `[k - 1]` of an order, where their number is `int(...)`
or `round(...)` of a product, or a whole division, also within `min`, through names and functions of the trainer, and no
`max(1, ...)`, `clamp` or `or 1` keeps it from 0, and nothing in the function asks for it, or for what it is a share of.

Statistic: such indices; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
budget = int(keep_ratio * candidates.numel())
threshold = candidates.topk(budget).values[-1]
```

Good:

```python
if candidates.numel() == 0:
    return torch.zeros_like(valid)
budget = max(1, int(keep_ratio * candidates.numel()))
```

## How to fix

Keep one at least, and leave early where there is none to keep.

## Known limits

Numbers that are settings, or that a function is given, are not asked.

## Sources

PyTorch: an index into an empty dimension is out of range; `topk(0)` is allowed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import dotted
from gradgate.checks.source.values import assignments_in, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG485", "last-of-none"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WHOLE = ("int", "round", "math.floor", "floor")
KEEPS = re.compile(r"\bmax\(|clamp|ceil|\+ 1\b")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for the last of what may be none."""
    return read_place_by_place(subject, lambda file: file.has("topk", "sort("), _of_place, "indices")


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    values = {}  # names of what topk gives: the first of a pair, or both
    for target, value in assignments_in(place.nodes):
        number = _number(value)
        if number is not None:
            values[dotted(places_of(target)[0])] = number
    asked = {ast.unparse(part) for test in _tests(place) for part in ast.walk(test) if isinstance(part, ast.expr)}
    for node in place.nodes:
        number = _last_of(node, values)
        if number is None or not isinstance(node, ast.expr):
            continue
        texts = {ast.unparse(part) for part in place.names.parts(number) if isinstance(part, ast.Name | ast.Attribute)}
        if not texts & asked and _may_be_0(number, place, places):
            yield _finding(place, node, number)


def _number(value: ast.expr) -> ast.expr | None:
    """How many a `topk` takes, of which something is the values, or the pair."""
    of_pair = isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant) and value.slice.value == 0
    if isinstance(value, ast.Attribute | ast.Subscript) and (of_pair or getattr(value, "attr", "") == "values"):
        value = value.value
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "topk"):
        return None
    given = value.args[1:2] if dotted(value.func.value) == "torch" else value.args[:1]
    return next(iter([*given, *(word.value for word in value.keywords if word.arg == "k")]), None)


def _last_of(node: ast.AST, values: dict[str, ast.expr]) -> ast.expr | None:
    """How many there are of that of which the last is taken."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("min", "max"):
        return None if node.args else _number(node.func.value) or values.get(dotted(node.func.value))
    if not isinstance(node, ast.Subscript):
        return None
    index = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
    is_last = isinstance(index, ast.UnaryOp) and ast.unparse(index) == "-1"
    before = index.left if isinstance(index, ast.BinOp) and ast.unparse(index).endswith(" - 1") else None
    holder = node.value.value if isinstance(node.value, ast.Attribute) and node.value.attr == "values" else node.value
    if before is not None and re.search(r"sort", ast.unparse(holder)):
        return before
    return _number(node.value) or values.get(dotted(holder)) if is_last or before is not None else None


def _may_be_0(number: ast.expr, place: Place, places: Places, hops: int = 4) -> bool:
    held = place.names.held(number)
    if KEEPS.search(ast.unparse(held)) or isinstance(held, ast.BoolOp) or not hops:
        return False
    if isinstance(held, ast.BinOp):
        return isinstance(held.op, ast.FloorDiv)
    if not isinstance(held, ast.Call):
        return False
    name = dotted(held.func)
    if name in WHOLE and held.args:
        inner = place.names.held(held.args[0])
        return isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Mult | ast.Div)
    if name == "min":
        return any(_may_be_0(each, place, places, hops - 1) for each in held.args)
    called = places.called(held, place)
    if called is None:
        return False
    given = [each.value for each in called.nodes if isinstance(each, ast.Return) and each.value]
    return len(given) == 1 and _may_be_0(given[0], called, places, hops - 1)


def _tests(place: Place) -> Iterator[ast.expr]:
    for node in place.nodes:
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            yield node.test


def _finding(place: Place, node: ast.expr, number: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{ast.unparse(node)}` in {place.name}() has none to take where `{ast.unparse(number)}` is 0; "
        "allowed: one at least",
        culprit=place.file.at(node, place.name),
        fix="keep one at least, `max(1, ...)`, and leave early where there is none",
    )
