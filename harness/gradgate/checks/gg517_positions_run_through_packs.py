"""Positions run through a row that several examples are packed into, where a learnt embedding is looked up by them.

## What it detects

`pos = torch.arange(width)` for rows whose `seg[i, start:stop] = number` tells one example from the next.

## Why it matters

Attention is kept within an example, and its first token still has the position of what is packed in front of it. The
same example has other hidden states, values and losses in another pack, the late positions alone are trained on late
examples, and an evaluation or a generation, where each row begins at 0, is another model's. Nothing raises.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, of a trainer that has an
embedding of positions: relative ones, as rotary ones, are the same from wherever they begin. Findings are names of
positions, or fields of an object that is made there, that are given an `arange` or `range`, in a function that also
writes the numbers of examples into a row (`seg[i, a:b] = n`, `segment_ids += [n] * len(x)`) in a loop, unless they are
made within that loop; and positions of
an `arange` over a width in a function that is given such numbers and compares them with one another, itself or in a
function that it gives them to. Positions that are written by parts, counted anew (`cumsum`, a subtraction), or not
given to anything are none, nor are those that stand in for positions that a caller left out.

Statistic: such positions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
pos = torch.arange(width).expand(count, width)
```

Good:

```python
pos[i, start:stop] = torch.arange(stop - start)
```

## How to fix

Begin at 0 in each example, where its number is written.

## Known limits

Numbers of examples are known by their names. Positions that a library's model makes are not looked at.

## Sources

transformers, `DataCollatorWithFlattening`, whose `position_ids` begin anew with each example.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.column_positions import POSITIONS, is_counted_anew, is_handed_on, is_over_a_width
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in, contains, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG517", "positions-run-through-packs"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
NUMBERS = re.compile(r"(^|_)(segs?|segments?|docs?|documents?|examples?|packs?|sequences?)(_?ids?)?(_[A-Z]+)?$")
TABLES = ("Embedding", "Parameter")
SHAPES = ("list", "expand", "expand_as", "repeat", "unsqueeze", "to", "long", "clone", "contiguous", "tensor", "tile")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for positions of a row's columns beside the numbers of its examples."""
    return read_place_by_place(subject, lambda file: file.has("arange(", "range("), _of_place, "positions")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    made = [
        (last_name(target), value)
        for target, value in assignments_in(place.nodes)
        if POSITIONS.search(last_name(target)) and not isinstance(target, ast.Subscript)
        if last_name(target) not in place.parameters  # or they may be given
    ]
    calls = [node for node in place.nodes if isinstance(node, ast.Call) and POSITIONS.search(called_name(node))]
    fields = _fields(place)
    if not (made or calls or fields) or not (_loops(place) or _is_held_apart(place, own)) or not _has_table(own):
        return
    loops = _loops(place)
    for name, value in made:
        runs = is_over_a_width(value, place) or (loops and _is_range(value))
        within = any(contains(loop, value) for loop in loops)
        if runs and not within and is_handed_on(name, place) and not _begins_anew(name, value, place):
            yield _finding(place, value, name)
            return
    for name, value in fields if loops else ():
        if not any(contains(loop, value) for loop in loops) and not _begins_anew(name, value, place):
            yield _finding(place, value, name)
            return
    for call in calls if not loops else ():
        if any(is_over_a_width(each, place) for each in given_by(call)[:1]):
            yield _finding(place, call, called_name(call))
            return


def _fields(place: Place) -> list[tuple[str, ast.expr]]:
    """Positions that an object of a row is made with, by name, as `Row(ids=..., position=np.arange(width))`."""
    words = (word for node in place.nodes if isinstance(node, ast.Call) for word in node.keywords)
    return [
        (word.arg, word.value)
        for word in words
        if POSITIONS.search(word.arg or "")
        if word.arg and _is_range(word.value)
    ]


def _has_table(own: Places) -> bool:
    """Whether positions are looked up in what is learnt."""
    return any(
        POSITIONS.search(last_name(target)) and called_name(value) in TABLES
        for place in own.functions
        if place.owner is not None and place.file.has(*TABLES)
        for target, value in assignments_in(place.nodes)
    )


def _loops(place: Place) -> list[ast.For]:
    """The innermost loops that write the numbers of examples into a row."""
    loops = [node for node in place.nodes if isinstance(node, ast.For)]
    writing = [loop for loop in loops if any(_writes_numbers(each, place) for each in ast.walk(loop))]
    return [loop for loop in writing if not any(other is not loop and contains(loop, other) for other in writing)]


def _writes_numbers(node: ast.AST, place: Place) -> bool:
    if isinstance(node, ast.Assign):
        targets = [target for target in node.targets if isinstance(target, ast.Subscript)]
        return any(_is_part(target, place) and NUMBERS.search(last_name(target.value)) for target in targets)
    if isinstance(node, ast.AugAssign):
        return bool(NUMBERS.search(last_name(node.target))) and isinstance(node.value, ast.BinOp)
    if isinstance(node, ast.Call) and called_name(node) == "extend" and isinstance(node.func, ast.Attribute):
        return bool(NUMBERS.search(last_name(node.func.value))) and isinstance(node.args[0], ast.BinOp)
    return False


def _is_part(target: ast.Subscript, place: Place) -> bool:
    parts = target.slice.elts if isinstance(target.slice, ast.Tuple) else [target.slice]
    spans = (place.names.held(part) for part in parts)
    if any(isinstance(span, ast.Call) and dotted(span.func) == "slice" and len(span.args) > 1 for span in spans):
        return True
    return any(isinstance(part, ast.Slice) and part.upper is not None for part in parts)


def _is_held_apart(place: Place, own: Places) -> bool:
    """Whether a function is given the numbers of examples, and holds those of a row against one another."""
    names = [name for name in place.parameters if NUMBERS.search(name)]
    if any(_compares(place, name) for name in names):
        return True
    for call in (node for node in place.nodes if isinstance(node, ast.Call)) if names else ():
        called = own.called(call, place)
        given = called.given(call).items() if called is not None and called is not place else ()
        if called is not None and any(_compares(called, to) for to, value in given if dotted(value) in names):
            return True
    return False


def _compares(place: Place, name: str) -> bool:
    for node in place.nodes:
        asks = isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq)
        if asks and all(_root(each) == name for each in (node.left, node.comparators[0])):  # type: ignore[attr-defined]
            return True
    return False


def _root(node: ast.expr) -> str:
    while True:
        if isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call) and called_name(node) == "unsqueeze" and isinstance(node.func, ast.Attribute):
            node = node.func.value
        else:
            return dotted(node)


def _is_range(value: ast.expr) -> bool:
    """Whether a value is the numbers from 0 on, in whatever shape."""
    while isinstance(value, ast.Call) and called_name(value) in SHAPES:
        around = value.func.value if isinstance(value.func, ast.Attribute) else None
        is_own = around is None or dotted(around) in ("torch", "np")
        inner = value.args[0] if is_own and value.args else around
        if inner is None:
            return False
        value = inner
    while isinstance(value, ast.Subscript):
        value = value.value
    return called_name(value) in ("range", "arange") and isinstance(value, ast.Call) and len(value.args) == 1


def _begins_anew(name: str, value: ast.expr, place: Place) -> bool:
    """Whether positions are written by parts, or counted from elsewhere."""
    for node in place.nodes:
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Subscript) and last_name(each.value) == name for each in targets):
                return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Mod) and last_name(node.left) == name:
            return True
    return is_counted_anew(name, value, place)


def _finding(place: Place, node: ast.expr, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() counts `{name}` through a row of several examples, by `{ast.unparse(node)}`; "
        "allowed: from 0 in each example",
        culprit=place.file.at(node, place.name),
        fix="begin at 0 in each example: `pos[i, start:stop] = torch.arange(stop - start)`",
    )
