"""An accuracy over pairs counts ties as right: what scores everything alike has 1.0.

## What it detects

`(good >= bad).float().mean()`: the share of pairs whose better side scores at least as high as the worse one.

## Why it matters

A value head that is initialised to zero, one that is dead, and one whose outputs have saturated score both sides of
each pair alike, and their accuracy is perfect. It begins at the top, falls as training begins, and the checkpoint that
is kept as the best is the one that says nothing. At random it should be a half.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are comparisons by
`>=` or `<=` (`ge`, `le`, `~(... < ...)`) of two scores whose names say the opposite (good and bad, chosen and rejected,
positive and negative, winner and loser, correct and wrong), of their difference with 0, of the two halves or of every
other row of one tensor, and `argmax` of the two with the better in front, that say the better is not below the worse;
where the function, what the result is assigned to, or the key that it stands under is called after an accuracy, or
after wins, hits or what is correct.

A function that looks at ties as well (`==`, `isclose`) is clean. Statistic: such comparisons; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
accuracy = (good >= bad).float().mean()
```

Good:

```python
accuracy = (good > bad).float().mean() + 0.5 * (good == bad).float().mean()
```

## How to fix

Count a tie as a half, or as wrong.

## Known limits

Scores whose names do not say which is the better one are not known for a pair.

## Sources

Hanley and McNeil 1982: the area under the curve is the probability of the right order, with ties as a half.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.opposite_names import PREFERRED, named, side
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import last_name, outwards, parents_in, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG656", "ties-count-as-right"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SCORED = re.compile(r"acc|accurac|correct|(^|_)(wins?|hits?|right|auc|concordan\w*|agree\w*)(_|$)", re.IGNORECASE)
TIES = re.compile(r"^(isclose|eq|equal)$")
CALLS = {"ge": ast.GtE, "greater_equal": ast.GtE, "le": ast.LtE, "less_equal": ast.LtE}
CHOOSES = ("where", "masked_fill", "masked_select", "nonzero", "filter")
HALVES = {"::2": "1::2", "0::2": "1::2", ":, 0": ":, 1", "..., 0": "..., 1"}


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look at each comparison of the two sides of a pair."""
    return read_place_by_place(subject, _may_hold, _of_place, "comparisons")


def _may_hold(file: File) -> bool:
    return file.has(">=", "<=", "ge(", "le(", "_equal(", "~(", "argmax")


def _of_place(place: Place, _own: Places) -> Iterator[Finding]:
    parents: dict[int, ast.AST] = {}
    for node in place.nodes:
        sides = _held_against(node, place)
        if sides is None or not _is_of_pair(*sides, place):
            continue
        parents = parents or parents_in(place.function)
        if _is_scored(node, place, parents) and not _asks_for_ties(place, node):
            yield _finding(place, node)


def _asks_for_ties(place: Place, node: ast.AST) -> bool:
    """Whether a function counts ties apart."""
    equal = (part for part in place.nodes if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq))
    calls = (part for part in place.nodes if isinstance(part, ast.Call))
    return any(part is not node for part in equal) or any(TIES.search(called_name(call)) for call in calls)


def _held_against(node: ast.AST, place: Place) -> tuple[ast.expr, ast.expr] | None:
    """What has to be at least as large as the other for a comparison to hold, and that."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
        inner = node.operand
        if isinstance(inner, ast.Compare) and len(inner.ops) == 1 and isinstance(inner.ops[0], ast.Lt | ast.Gt):
            pair = inner.left, inner.comparators[0]
            return pair if isinstance(inner.ops[0], ast.Lt) else pair[::-1]
        return None
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        pair = node.left, node.comparators[0]
        if isinstance(node.ops[0], ast.Eq) and called_name(node.left) == "argmax" and ast.unparse(pair[1]) == "0":
            return _first_of(node.left, place)
        return _turned(type(node.ops[0]), *pair)
    if isinstance(node, ast.Call) and called_name(node) in CALLS:
        holder = node.func.value if isinstance(node.func, ast.Attribute) else None
        parts = [*([holder] if holder is not None and dotted(holder) not in ("torch", "np") else []), *node.args]
        return _turned(CALLS[called_name(node)], parts[0], parts[1]) if len(parts) == 2 else None
    return None


def _turned(sign: type[ast.cmpop], one: ast.expr, other: ast.expr) -> tuple[ast.expr, ast.expr] | None:
    return (one, other) if sign is ast.GtE else (other, one) if sign is ast.LtE else None


def _first_of(call: ast.expr, place: Place) -> tuple[ast.expr, ast.expr] | None:
    """The two that an `argmax` is over: `torch.stack([good, bad], dim=1).argmax(dim=1)`."""
    for part in place.names.parts(call):
        if called_name(part) == "stack" and isinstance(part, ast.Call) and part.args:
            rows = part.args[0]
            if isinstance(rows, ast.List | ast.Tuple) and len(rows.elts) == 2:
                return rows.elts[0], rows.elts[1]
    return None


def _is_of_pair(larger: ast.expr, smaller: ast.expr, place: Place) -> bool:
    """Whether the larger is the better side of a pair, and the other one the worse; or a difference of these, and 0."""
    if isinstance(smaller, ast.Constant) and smaller.value == 0:
        held = place.names.held(larger)
        minus = held if isinstance(held, ast.BinOp) and isinstance(held.op, ast.Sub) else None
        return minus is not None and _is_of_pair(minus.left, minus.right, place)
    if [_side(each, place) for each in (larger, smaller)] == [0, 1]:
        return True
    both = (larger, smaller)
    if not all(isinstance(each, ast.Subscript) for each in both) or dotted(larger.value) != dotted(smaller.value):  # type: ignore[attr-defined]
        return False
    first, second = (ast.unparse(each.slice).strip("()") for each in both)  # type: ignore[attr-defined]
    halves = first.startswith(":") and second == f"{first[1:]}:" and len(first) > 1
    return HALVES.get(first) == second or (halves and "pair" in place.name)


def _side(value: ast.expr, place: Place) -> int | None:
    """The side of a pair that a score is of: by its name, or by that of the one thing that is scored."""
    said = side(named(value, place), PREFERRED)
    if said is None and isinstance(value, ast.Name) and (one_by_one := _gone_through(value.id, place)) is not None:
        return side(named(one_by_one, place), PREFERRED)
    held = place.names.held(value)
    if said is None and isinstance(held, ast.Call) and len(held.args) == 1 and not held.keywords:
        return side(named(held.args[0], place), PREFERRED)
    return said


def _gone_through(name: str, place: Place) -> ast.expr | None:
    """What a loop or a comprehension goes through by a name: `good` of `for g, b in zip(good, bad)`."""
    found = []
    for node in place.nodes:
        for loop in [node] if isinstance(node, ast.For) else getattr(node, "generators", ()):
            targets, over = places_of(loop.target), loop.iter
            if called_name(over) == "enumerate" and isinstance(over, ast.Call) and over.args:
                targets, over = targets[1:], over.args[0]  # of `for i, (good, bad) in enumerate(...)`
            zipped = isinstance(over, ast.Call) and called_name(over) == "zip"
            many = over.args if zipped and isinstance(over, ast.Call) else [over]
            found += [each for target, each in zip(targets, many, strict=False) if dotted(target) == name]
    return found[0] if len(found) == 1 else None


def _is_scored(node: ast.AST, place: Place, parents: dict[int, ast.AST]) -> bool:
    """Whether what a comparison says is counted for an accuracy, by the names around it."""
    for each in outwards(node, parents):
        if isinstance(each, ast.Assert | ast.While | ast.Raise):
            return False
        if isinstance(each, ast.Dict):
            at = [
                key
                for key, value in zip(each.keys, each.values, strict=True)
                if any(p is node for p in ast.walk(value))
            ]
            if any(isinstance(key, ast.Constant) and SCORED.search(str(key.value)) for key in at):
                return True
        if isinstance(each, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            return any(SCORED.search(last_name(target)) for target in targets) or bool(SCORED.search(place.name))
        if isinstance(each, ast.If):
            added = [part.target for part in each.body if isinstance(part, ast.AugAssign)]
            return any(SCORED.search(last_name(target)) for target in added)
        if isinstance(each, ast.Call) and SCORED.search(dotted(each.func)):
            return True
        if isinstance(each, ast.stmt):
            return isinstance(each, ast.Return) and bool(SCORED.search(place.name))
    return False


def _finding(place: Place, node: ast.AST) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() counts a tie as right, by `{ast.unparse(node)}`: what scores both sides alike "
        "is never wrong; allowed: a half, or wrong",
        culprit=place.file.at(node, place.name),
        fix="count a tie as a half, or as wrong: `(good > bad) + 0.5 * (good == bad)`",
    )
