"""A head that is further ahead than a row is long takes a slice that ends in front of its beginning.

## What it detects

`labels[:, : length - shift, k] = ids[:, shift:]` in a loop over heads in which nothing keeps `length - shift` from
being less than 0.

## Why it matters

A negative end counts from the right: the two sides are of different lengths and the assignment fails, in the middle of
a run, at the first batch whose longest row is shorter than the horizon. An evaluation of few or short rows, a last
batch of one, or a longer horizon is enough.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, where rows are padded: at
loops over heads that take tokens by as much as a head is ahead (`ids[:, k + 1 :]`), and in them at slices that end at a
tensor's size less that. None are those where

* the loop ends at the size (`range(min(H, width - 1))`), also by what all calls give it;
* it asks for the size or for what is left of it (`if shift >= width: break`, `if span > 0`, `numel()`), or the function
  compares the size before;
* the end is not less than 0 (`max(width - shift, 0)`), or the tensor is made longer first (`F.pad`, `torch.cat`);
* a function of the trainer compares the number of heads with the length of a row.

Statistic: such slices, one a loop; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for k in range(H):
    shift = k + 1
    labels[:, : width - shift, k] = ids[:, shift:]
```

Good:

```python
for k in range(min(H, width - 1)):
    shift = k + 1
    labels[:, : width - shift, k] = ids[:, shift:]
```

## How to fix

Leave out the heads that no token of the row is ahead enough for.

## Known limits

Trainers whose rows are all of one length are told of too, where they pad.

## Sources

A boundary fault of several trainers that were read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain

from gradgate.checks.source.axis_sizes import axes_in
from gradgate.checks.source.head_shifts import HEAD, NUMBER, HeadLoop, head_loops
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, called_name, dotted, files_of
from gradgate.checks.source.values import ORDERS, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG491", "slice-end-negative"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SIZE = re.compile(r"\.shape\[-?\d\]$|\.size\((dim=)?-?\d\)$|\.numel\(\)$|^len\([\w.]+\)$|^max\(\(?\(?len\(")
LENGTHS = re.compile(r"\blen\(|\.shape\b|\.size\(|numel\(|(^|_)n_tokens")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for slices of heads that may end in front of their beginning."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    pads = any(file.has("pad", "PAD", "Pad") for file in files)
    places = places_in(files)
    found = (_of_place(place, places) for place in places.functions if pads and place.file.has("range(", "enumerate("))
    findings = tuple(chain.from_iterable(found))
    return Outcome(findings, {"slices": len(findings)}, {"slices": 0})


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    for loop in head_loops(place):
        ends = [(node, size) for node in loop.nodes if isinstance(node, ast.Slice) and (size := _size_in(node, loop))]
        if not ends or not any(isinstance(node, ast.Slice) and loop.moves(node) for node in loop.nodes):
            continue
        end, size = ends[0]
        if not (
            _is_limited(loop, size, places) or _is_asked(loop, size) or _is_longer(place) or _is_known(loop, places)
        ):
            yield _finding(place, end, size)


def _size_in(part: ast.Slice, loop: HeadLoop) -> str:
    """The size of a tensor that a slice ends at, less how far a head is ahead; empty: it ends elsewhere."""
    end = loop.sum_of(part.upper)
    if part.upper is None or end is None or end.get(HEAD, 0) >= 0:
        return ""
    others = [name for name in end if name not in (HEAD, NUMBER)]
    if len(others) != 1 or end[others[0]] != 1 or end.get(NUMBER, 0) > 0:
        return ""
    return others[0] if SIZE.search(others[0]) or others[0] in axes_in(loop.place.nodes) else ""


def _is_limited(loop: HeadLoop, size: str, places: Places) -> bool:
    """Whether there are no more heads than a row is long."""
    parts = list(loop.place.names.parts(loop.count))
    if any(isinstance(part, ast.expr) and _is_least(part, size) for part in parts):
        return True
    name = loop.count.id if isinstance(loop.count, ast.Name) else ""
    given = places.given_to(loop.place, name) if name in loop.place.parameters else None
    return bool(given) and all(
        any(isinstance(part, ast.Call) and called_name(part) == "min" for part in caller.names.parts(value))
        for caller, value in given or ()
    )


def _is_least(part: ast.expr, size: str) -> bool:
    if isinstance(part, ast.Call) and called_name(part) in ("min", "minimum", "clamp"):
        return True
    return ast.unparse(part) == size or bool(SIZE.search(ast.unparse(part)) and ".shape[-1]" not in ast.unparse(part))


def _is_asked(loop: HeadLoop, size: str) -> bool:
    """Whether the loop, or its function, asks how long a row is."""
    inside = set(map(id, loop.nodes))
    for node in loop.place.nodes:
        for test in _tests(node):
            if id(node) in inside and LENGTHS.search(ast.unparse(test)):
                return True
            for part in ast.walk(test):
                if isinstance(part, ast.Compare) and isinstance(part.ops[0], ORDERS):
                    sides = [loop.sum_of(each) or {} for each in (part.left, *part.comparators)]
                    if any(size in side for side in sides):
                        return True
    return False


def _tests(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
        return [node.test]
    return list(node.ifs) if isinstance(node, ast.comprehension) else []


def _is_longer(place: Place) -> bool:
    """Whether a function makes tensors longer."""
    return any(isinstance(node, ast.Call) and called_name(node) in ("pad", "cat", "concat") for node in place.nodes)


def _is_known(loop: HeadLoop, places: Places) -> bool:
    """Whether a function compares the number of heads with the length of a row."""
    name = last_name(loop.count) or dotted(loop.count)
    for place in places.functions if name else ():
        if not place.file.has(name):
            continue
        for node in place.nodes:
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ORDERS):
                sides = [node.left, *node.comparators]
                named = [any(last_name(part) == name for part in ast.walk(side)) for side in sides]
                if any(named) and any(
                    LENGTHS.search(ast.unparse(s)) for s, n in zip(sides, named, strict=True) if not n
                ):
                    return True
    return False


def _finding(place: Place, end: ast.Slice, size: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.name}() takes a slice up to `{ast.unparse(end.upper or end)}`, which is less than 0 for a head "
            f"that is further ahead than `{size}`; allowed: no end that is less than 0"
        ),
        culprit=place.file.at(end, place.name),
        fix="leave such heads out: `range(min(H, width - 1))`, or `if shift >= width: break`",
    )
