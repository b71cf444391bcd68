"""Documents are cut into pieces, and the pieces are split into training and held-out ones: documents lie on both sides.

## What it detects

`pieces = [p for d in documents for p in cut(d, length)]`, of which `order = randperm(len(pieces))` picks those that are
held out.

## Why it matters

The rest of a document that is held out is trained on: its words, its names, its answer. The held-out loss falls with
what is remembered, and the best checkpoint is the one that remembers most.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Pieces are a list that
holds, of each element of another one, several: by a comprehension of two loops, by `extend` or `+=` in a loop, or by
`append` in two, where the inner loop counts by `range` in steps, or goes through what a function gives that is called
after cutting (chunks, windows, pieces, blocks, segments), or that slices what it is given for each of a `range`. They
may be what another function gives back. A finding, as a warning, is such a list that is split by `random_split` or
`train_test_split`, or that is shuffled, or gone through in a drawn order of its length, and taken apart at one place
(`order[:n]`, `order[n:]`). Statistic: such splits; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
pieces = [piece for document in documents for piece in cut(document, length)]
train, held_out = random_split(pieces, [0.9, 0.1])
```

Good:

```python
train, held_out = random_split(documents, [0.9, 0.1])
pieces = [piece for document in train for piece in cut(document, length)]
```

## How to fix

Split the documents, and cut the parts.

## Known limits

Splits in another function than the one that makes the pieces or asks for them are not followed. Whether samples of
another part come up in training is GG612's.

## Sources

scikit-learn, `GroupShuffleSplit`, which keeps groups together; a convergence fault of a trainer that was read for the
catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import contains
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG521", "split-behind-the-cut"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
CUTS = re.compile(r"(^|_)(cut|chunk|window|piece|block|segment|slide|sliding)", re.IGNORECASE)
SPLITS = ("random_split", "train_test_split")
ORDERS = ("randperm", "permutation", "sample")
SHUFFLES = ("shuffle",)
FIX = "split the documents, and cut the parts"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for pieces that are split."""
    texts = (*SPLITS, *ORDERS, *SHUFFLES)
    return read_place_by_place(subject, lambda file: file.has(*(f"{text}(" for text in texts)), _of_place, "splits")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    for name, node in _splits(place):
        if _is_of_pieces(name, place, own):
            yield Finding(
                code=CODE,
                name=NAME,
                severity="warning",
                message=f"{place.name}() splits `{name}`, which are pieces of documents: those of one lie on both "
                "sides; allowed: none",
                culprit=place.file.at(node, place.name),
                fix=FIX,
            )


def _splits(place: Place) -> Iterator[tuple[str, ast.AST]]:
    """What is split in a drawn order, by its name, and where."""
    for node in place.nodes:
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called, name = called_name(node), dotted(node.args[0])
        if name and (called in SPLITS or (called in SHUFFLES and _is_taken_apart(name, place))):
            yield name, node
        elif called in ORDERS:
            name = _measured(node.args[0]) or name
            drawn = [each for each in place.nodes if isinstance(each, ast.Assign) and contains(each.value, node)]
            orders = [dotted(target) for each in drawn for target in each.targets]
            if name and any(_is_taken_apart(order, place) for order in orders if order):
                yield name, node


def _measured(node: ast.expr) -> str:
    """The name of the list whose length it is; empty: of none."""
    of = node.args[0] if isinstance(node, ast.Call) and called_name(node) == "len" and node.args else node
    return dotted(of) if of is not node else ""


def _is_taken_apart(name: str, place: Place) -> bool:
    """Whether the first of a list and the rest of it are taken, from one place on."""
    slices = [
        node.slice
        for node in place.nodes
        if isinstance(node, ast.Subscript) and dotted(node.value) == name and isinstance(node.slice, ast.Slice)
    ]
    first = {ast.unparse(each.upper) for each in slices if each.lower is None and each.upper is not None}
    rest = {ast.unparse(each.lower) for each in slices if each.upper is None and each.lower is not None}
    return bool(first & rest)


def _is_of_pieces(name: str, place: Place, own: Places, hops: int = 2) -> bool:
    """Whether a list holds several pieces of each element of another."""
    values = [node.value for node in place.nodes if isinstance(node, ast.Assign) and name in map(dotted, node.targets)]
    for value in values:
        if isinstance(value, ast.ListComp) and _flattens(value, place, own):
            return True
        made = own.called(value, place) if isinstance(value, ast.Call) and hops else None
        if made is None or made is place:
            continue
        for returned in made.returned:
            if isinstance(returned, ast.ListComp) and _flattens(returned, made, own):
                return True
            if dotted(returned) and _is_of_pieces(dotted(returned), made, own, hops - 1):
                return True
    return any(isinstance(node, ast.For) and _fills(node, name, place, own) for node in place.nodes)


def _flattens(value: ast.ListComp, place: Place, own: Places) -> bool:
    outer, *inner = value.generators
    return any(_cuts(each.iter, outer.target, place, own) for each in inner)


def _fills(loop: ast.For, name: str, place: Place, own: Places) -> bool:
    """Whether a loop puts the pieces of each element into a list."""
    for node in ast.walk(loop):
        put: ast.expr | None = None
        if isinstance(node, ast.AugAssign) and dotted(node.target) == name:
            put = node.value
        elif isinstance(node, ast.Call) and dotted(node.func) == f"{name}.extend" and node.args:
            put = node.args[0]
        elif isinstance(node, ast.For) and node is not loop:
            calls = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
            put = node.iter if any(dotted(call) == f"{name}.append" for call in calls) else None
        if put is not None and _cuts(put, loop.target, place, own):
            return True
    return False


def _cuts(value: ast.expr, of: ast.expr, place: Place, own: Places) -> bool:
    """Whether a value is the windows of one element, or what it is cut into."""
    if isinstance(value, ast.ListComp):
        return _cuts(value.generators[0].iter, of, place, own)
    names = {part.id for part in ast.walk(of) if isinstance(part, ast.Name)}
    uses = any(isinstance(part, ast.Name) and part.id in names for part in place.names.parts(value, 2))
    if not isinstance(value, ast.Call) or not uses:
        return False
    if dotted(value.func) == "range":
        return len(value.args) == 3
    made = own.called(value, place)
    return bool(CUTS.search(called_name(value))) or (made is not None and _slices(made))


def _slices(place: Place) -> bool:
    """Whether a function slices what it is given for each of a `range`."""
    counted = {
        each.target.id
        for each in ast.walk(place.function)
        if isinstance(each, ast.For | ast.comprehension)
        and isinstance(each.target, ast.Name)
        and called_name(place.names.held(each.iter)) == "range"
    }
    return any(
        isinstance(node, ast.Slice) and isinstance(node.lower, ast.Name) and node.lower.id in counted
        for node in ast.walk(place.function)
    )
