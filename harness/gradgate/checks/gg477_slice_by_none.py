"""A slice from the end by a number that may be 0 takes everything, or nothing.

## What it detects

`train, val = rows[:-n], rows[-n:]` with `n = int(len(rows) * share)`: for 0 the first is empty and the second all rows.
`prompt[-room:]` with `room = max(0, limit - len(answer))`: no room keeps the whole prompt.

## Why it matters

It is right for every number but one, and that one comes with a small corpus, a share of 0, a long answer. Then a run
trains on nothing, or a row is longer than the model's positions.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are slices
`[-n:]` and `[:-n]` by `max(0, ...)`, or by a name, or attribute, that the same function has set to that, to `int(...)`
or `round(...)` of a product or to a whole division, where no condition asks for it and no `max(1, ...)` keeps it from
0: of a share only where one list is cut both ways by it.

Statistic: such slices; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
room = max(0, max_length - len(answer))
prompt = prompt[-room:]
```

Good:

```python
prompt = prompt[len(prompt) - room :]
```

## How to fix

Count from the beginning: `x[len(x) - n :]`.

## Known limits

Settings that may be 0 are not asked, nor numbers that come from another function.

## Sources

Python: -0 is 0, so that `x[-0:]` is `x[0:]`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.checks.source.trainer import File, dotted, read_file_by_file
from gradgate.checks.source.values import Names, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG477", "slice-by-none"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for slices from the end by what may be 0."""
    return read_file_by_file(subject, _of_file, "slices")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("[-", "[:-", "[: -"):
        return
    for function, _ in file.functions:
        nodes, names = own_nodes(function), Names(function)
        slices = [
            (node, name, kind) for node in nodes if isinstance(node, ast.Subscript) for name, kind in _by_name(node)
        ]
        asked = {dotted(part) for test in _tests(nodes) for part in ast.walk(test) if dotted(part)} if slices else set()
        for node, name, kind in slices:
            if dotted(name) and dotted(name) in asked:
                continue
            both = {
                other_kind for other, by, other_kind in slices if _is_of(other, node) and dotted(by) == dotted(name)
            }
            origin = _origin(names.held(name))
            if (origin == "room" and kind == "end") or (origin == "share" and len(both) > 1 and kind == "end"):
                yield _finding(file, node, function.name, ast.unparse(name))


def _is_of(other: ast.Subscript, node: ast.Subscript) -> bool:
    return ast.unparse(other.value) == ast.unparse(node.value)


def _by_name(node: ast.Subscript) -> Iterator[tuple[ast.expr, str]]:
    """The name by which a slice goes back from the end, and whether it takes the end or what is in front of it."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for part in parts:
        if isinstance(part, ast.Slice):
            for side, other, kind in ((part.lower, part.upper, "end"), (part.upper, part.lower, "front")):
                if (
                    isinstance(side, ast.UnaryOp)
                    and isinstance(side.op, ast.USub)
                    and other is None
                    and (dotted(side.operand) or _origin(side.operand) == "room")
                ):
                    yield side.operand, kind


def _origin(value: ast.expr) -> str:
    """Whether a number is what is left of a room, or a share of a number."""
    if not isinstance(value, ast.Call):
        return "share" if isinstance(value, ast.BinOp) and isinstance(value.op, ast.FloorDiv) else ""
    name = dotted(value.func)
    if name == "max" and any(isinstance(each, ast.Constant) and each.value == 0 for each in value.args):
        return "room"
    return (
        "share"
        if name in ("int", "round", "math.floor") and isinstance(next(iter(value.args), None), ast.BinOp)
        else ""
    )


def _tests(nodes: Sequence[ast.AST]) -> Iterator[ast.expr]:
    """What is asked: the conditions of a function, and what it asserts."""
    for node in nodes:
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            yield node.test
        elif isinstance(node, ast.BoolOp):
            yield node


def _finding(file: File, node: ast.Subscript, function: str, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{ast.unparse(node)}` in {function}() is everything where `{name}` is 0; allowed: nothing then",
        culprit=file.at(node, function),
        fix="count from the beginning: `x[len(x) - n :]`",
    )
