"""Windows are cut up to one place too early: the last whole one is left out.

## What it detects

`[ids[a : a + length] for a in range(0, len(ids) - length, length)]`: of 64 tokens and windows of 32, one window.

## Why it matters

A window that begins at `n - length` ends where the rows end, and `range` leaves that number out. Each document loses
its last piece, with its end token, its answer and its reward; one that has exactly one window loses all it has.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are loops and
comprehensions over a `range` up to a difference, `n - length`, itself or as the larger of it and a number, through
names too, in which a slice begins at the number that is counted and ends `length` behind it, or at the smaller of that
and `n`. A finding, as a warning, is one in which nothing reads the place behind a window: `x[a + length]`, a slice up
to `a + length + 1`. Statistic: such loops; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones; where the last place is to be left out, it is
one.

## Example

Bad:

```python
pieces = [ids[a : a + length] for a in range(0, len(ids) - length, length)]
```

Good:

```python
pieces = [ids[a : a + length] for a in range(0, len(ids), length)]             # the last may be short
```

## How to fix

Count up to `len(ids)` where the last one may be short, up to `len(ids) - length + 1` where it may not.

## Known limits

Windows that another function cuts at a number that it is given are not followed.

## Sources

Python's documentation of `range`; a boundary fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG520", "last-window-left-out"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for windows that are counted up to a difference."""
    return read_place_by_place(subject, lambda file: file.has("range("), _of_place, "windows")


def _of_place(place: Place, _: Places) -> Iterator[Finding]:
    for node in place.nodes:
        for each, body in _loops(node):
            counted = place.names.held(each.iter)
            length = _length(counted, place) if isinstance(each.target, ast.Name) else None
            if length is None or not isinstance(each.target, ast.Name):
                continue
            cut = _cut(each.target.id, length, body, place)
            if cut is not None:
                yield Finding(
                    code=CODE,
                    name=NAME,
                    severity="warning",
                    message=f"{place.name}() cuts `{ast.unparse(cut)}` for each of `{ast.unparse(counted)}`, which "
                    "leaves out the last whole one; allowed: none",
                    culprit=place.file.at(counted, place.name),
                    fix=f"count up to `... - {length} + 1`, or to the end where the last may be short",
                )


def _loops(node: ast.AST) -> Iterator[tuple[ast.For | ast.comprehension, Sequence[ast.AST]]]:
    """Loops and what they do."""
    if isinstance(node, ast.For):
        yield node, node.body
    elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
        yield from ((each, [node.elt]) for each in node.generators)


def _length(counted: ast.expr, place: Place) -> str | None:
    """What is taken from the end of a `range`; None: nothing is, or something else as well."""
    if not isinstance(counted, ast.Call) or dotted(counted.func) != "range" or not counted.args:
        return None
    end = place.names.held(counted.args[0] if len(counted.args) == 1 else counted.args[1])
    if isinstance(end, ast.Call) and dotted(end.func) == "max":
        ends = [each for each in map(place.names.held, end.args) if not isinstance(each, ast.Constant)]
        end = ends[0] if len(ends) == 1 else end
    if not isinstance(end, ast.BinOp) or not isinstance(end.op, ast.Sub):
        return None
    if not isinstance(end.left, ast.Name | ast.Call | ast.Attribute | ast.Subscript):
        return None
    return ast.unparse(end.right) if dotted(end.right) else None


def _cut(number: str, length: str, body: Sequence[ast.AST], place: Place) -> ast.expr | None:
    """The window that is cut from a number on; None: there is none, or what stands behind it is read as well."""
    nodes = [part for each in body for part in ast.walk(each)]
    ends = {f"{number} + {length}", f"{length} + {number}"}
    windows = [each for each in nodes if isinstance(each, ast.Subscript) and isinstance(each.slice, ast.Slice)]
    cut: ast.expr | None = None
    bounds: set[int] = set()
    for window in windows:
        begin, end = window.slice.lower, window.slice.upper  # type: ignore[attr-defined]
        if not isinstance(begin, ast.Name) or begin.id != number or end is None:
            continue
        held = place.names.held(end)
        bound = held
        if isinstance(held, ast.Call) and dotted(held.func) == "min" and len(held.args) == 2:
            bound = next((each for each in held.args if ast.unparse(each) in ends), held)
        if ast.unparse(bound) in ends:
            cut = cut or window
            bounds.add(id(bound))
    others = [each for each in nodes if isinstance(each, ast.BinOp) and id(each) not in bounds]
    read_behind = any(ast.unparse(each) in ends for each in others) or any(_is_handed(each, number) for each in nodes)
    return None if read_behind else cut


def _is_handed(node: ast.AST, number: str) -> bool:
    """Whether a function is given the number that is counted: it may read what it wants."""
    given = [*node.args, *(word.value for word in node.keywords)] if isinstance(node, ast.Call) else []
    known = isinstance(node, ast.Call) and called_name(node) in ("min", "max", "append", "extend", "print", "len")
    return not known and any(isinstance(each, ast.Name) and each.id == number for each in given)
