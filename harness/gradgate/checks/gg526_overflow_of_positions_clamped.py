"""Positions are held to the last row of their table, so that those beyond it share that row and nobody is told.

## What it detects

`self.pos_emb(positions.clamp(max=self.max_len - 1))`.

## Why it matters

An index beyond its table is an error, and says where. Held to the last row it is none: a row that is too long, or whose
positions begin at 1, has several tokens at one position, which a model cannot tell apart. So the off-by-one of the data
is trained on.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A table is an attribute or
a name that holds an `Embedding` or a `Parameter`, which is called with, or indexed by, a number that is held below a
limit alone (`clamp(max=…)`, `clamp_max`, `minimum`, also from 0 on), itself or through names and arguments. It is one
of positions where the number is made of `arange` or `cumsum`, or what it is or the table is called after positions. A
finding, as a warning, is such a call, unless the number is a difference of two, as relative positions are, the limit
is the number of the rows themselves, or a function of the class raises or tells. Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones; where no row is ever longer, the limit is idle.

## Example

Bad:

```python
x = self.tok_emb(tokens) + self.pos_emb(positions.clamp(max=self.max_len - 1))
```

Good:

```python
x = self.tok_emb(tokens) + self.pos_emb(positions)           # raises where a row is too long
```

## How to fix

Leave the limit out, or raise where a position is beyond the table.

## Known limits

Positions that run around (`%`) are not looked at.

## Sources

A boundary fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG526", "overflow-of-positions-clamped"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
TABLES = ("Embedding", "Parameter")
CLAMPS = ("clamp", "clamp_", "clip", "clip_", "clamp_max", "clamp_max_", "minimum")
POSITIONS = re.compile(r"(^|_)(pos|positions?|wpe|position_ids|pos_ids)(_|$)|^pe$", re.IGNORECASE)
RUNS = ("arange", "cumsum", "range")
LIBRARIES = ("torch", "np", "numpy", "jnp")
TELLS = ("warn", "warning", "error", "exception", "print")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for positions that cannot overflow."""
    return read_place_by_place(subject, _may_clamp, _of_place, "clamps")


def _may_clamp(file: File) -> bool:
    return file.has("Embedding", "Parameter", "embedding(")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    tables = _tables(place, own)
    for node in place.nodes:
        if isinstance(node, ast.Call) and called_name(node) == "embedding" and len(node.args) > 1:
            table, index = last_name(node.args[1]), node.args[0]
        elif isinstance(node, ast.Call) and len(node.args) == 1 and last_name(node.func) in tables:
            table, index = last_name(node.func), node.args[0]
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and last_name(node.value) in tables:
            table, index = last_name(node.value), node.slice
        else:
            continue
        for where, call in _clamped(index, place, own):
            if _is_of_positions(call, where, table) and not _tells(place, where, own):
                yield _finding(where, call, table)


def _tables(place: Place, own: Places) -> set[str]:
    """The names of tables that are looked up in, of the function and of its class."""
    places = [place, *(own.methods_of(place.owner) if place.owner is not None else ())]
    return {
        last_name(target)
        for each in places
        for target, value in assignments_in(each.nodes)
        if any(called_name(part) in TABLES for part in ast.walk(value))
    }


def _clamped(index: ast.expr, place: Place, own: Places, hops: int = 3) -> Iterator[tuple[Place, ast.Call]]:
    """The calls that hold an index below a limit, each with the function."""
    held = place.names.held(index)
    if isinstance(held, ast.Call) and called_name(held) in CLAMPS:
        yield place, held
    elif isinstance(held, ast.Call) and isinstance(held.func, ast.Attribute) and not held.args:
        yield from _clamped(held.func.value, place, own, hops)
    elif isinstance(held, ast.Name) and hops and held.id in place.parameters:
        for where, value in own.values_given(place, held.id):
            yield from _clamped(value, where, own, hops - 1)


def _is_of_positions(call: ast.Call, place: Place, table: str) -> bool:
    """Whether a call holds positions below a limit, and neither relative ones nor from both sides of 0."""
    of_library = isinstance(call.func, ast.Attribute) and dotted(call.func.value) in LIBRARIES
    given = [*call.args]
    values = given.pop(0) if of_library and given else getattr(call.func, "value", None)
    words = {word.arg: word.value for word in call.keywords}
    if values is None:
        return False
    if called_name(call) in ("clamp_max", "clamp_max_", "minimum"):
        lower, upper = None, next(iter(given), words.get("max"))
    else:
        lower = words.get("min", given[0] if given else None)
        upper = words.get("max", given[1] if len(given) > 1 else None)
    if upper is None or (lower is not None and ast.unparse(lower) not in ("0", "None", "1")):
        return False
    parts = list(place.names.parts(values))
    if any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) and not _is_one(part.right) for part in parts):
        return False
    if any(called_name(part) in ("abs", "div", "floor", "bucketize", "round", "long") for part in parts):
        return False
    if any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Div | ast.FloorDiv) for part in parts):
        return False
    runs = any(called_name(part) in RUNS for part in parts)
    return runs or bool(POSITIONS.search(table) or POSITIONS.search(last_name(values)))


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 1


def _tells(place: Place, where: Place, own: Places) -> bool:
    """Whether a function of the class raises or tells, where a length or a position is asked."""
    places = {place, where, *(own.methods_of(place.owner) if place.owner is not None else ())}
    for node in (node for each in places for node in each.nodes):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
            return True
        if isinstance(node, ast.If) and any(
            isinstance(part, ast.Raise) or called_name(part) in TELLS for each in node.body for part in ast.walk(each)
        ):
            return True
    return False


def _finding(place: Place, call: ast.Call, table: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=f"{place.name}() holds positions to the last row of `{table}` by `{ast.unparse(call)}`: those beyond "
        "it share that row; allowed: an error",
        culprit=place.file.at(call, place.name),
        fix="leave the limit out, or raise where a position is beyond the table",
    )
