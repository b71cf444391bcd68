"""Losses of a reference are moved one place back, and held against a model's that are not.

## What it detects

`F.pad(reference_ce, (1, 0))` of losses of next tokens, [B, S-1], beside a model's of which that at t is the loss of the
token at t + 1.

## Why it matters

The excess of a token is the model's loss of it less the reference's of the token in front. What is kept has little to
do with what there is to learn, and a model that is the reference does not have an excess of 0.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are trainers that
take a reference's loss from a model's, by their names, and whose model's losses stand where the prediction is made:
labels are written at `[:, :n]`, or a loss is padded behind, `(0, 1)`, and none that is not a reference's in front.
Findings, as warnings, are losses of a reference that are padded in front: by `F.pad(x, (1, 0))`, by `cat` behind a
column of zeros, or by writing them at `[:, 1:]`.

Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
reference_ce = F.pad(reference_ce, (1, 0))
```

Good:

```python
reference_ce = F.pad(reference_ce, (0, 1))
```

## How to fix

Pad behind: the loss at t is that of the token at t + 1 on both sides.

## Known limits

Losses of a reference that goes by another name are not known.

## Sources

Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need", arXiv:2404.07965, equation 3.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.gg483_excess_reversed import LOSS, REFERENCE
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.trainer import NONE, called_name, calls_in, files_of
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG487", "reference-one-place-late"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
FRONT, BEHIND = ("(1, 0)", "[1, 0]"), ("(0, 1)", "[0, 1]")
ZEROS = ("zeros", "new_zeros", "zeros_like", "full", "new_full")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for losses of a reference that are padded in front."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    known = any(file.has("ref", "teacher") for file in files) and any(file.has(*FRONT, "1:]", "cat(") for file in files)
    places = places_in(files).functions if known else []
    moved = [(place, node) for place in places for node in _moved(place)]
    if moved and (not any(map(_is_held_against, places)) or not _stands_at_the_source(places)):
        moved = []
    found = tuple(_finding(place, node) for place, node in moved)
    return Outcome(found, {"places": len(found)}, {"places": 0})


def _moved(place: Place) -> Iterator[ast.expr]:
    """Losses of a reference that a function moves one place back."""
    for node in place.nodes:
        if isinstance(node, ast.Call) and _is_of_reference(_in_front(node), place):
            yield node
    for target, value in assignments_in(place.nodes):
        is_second = isinstance(target, ast.Subscript) and ast.unparse(target).endswith("[:, 1:]")
        if is_second and not isinstance(value, ast.Subscript) and _is_of_reference(value, place):
            yield value


def _in_front(call: ast.Call) -> ast.expr | None:
    """What a call pads in front by one column."""
    if called_name(call) == "pad" and len(call.args) > 1:
        return call.args[0] if ast.unparse(call.args[1]) in FRONT else None
    if called_name(call) in ("cat", "concat") and call.args and isinstance(call.args[0], ast.List | ast.Tuple):
        parts = call.args[0].elts
        zeros = len(parts) > 1 and any(called_name(each) in ZEROS for each in calls_in(parts[0]))
        return parts[1] if zeros else None
    return None


def _words(node: ast.expr) -> list[str]:
    return [last_name(part) for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute | ast.Subscript)]


def _is_of_reference(node: ast.expr | None, place: Place) -> bool:
    """Whether an expression is a reference's loss, by its names or those of its function."""
    if node is None or not any(map(LOSS.search, _words(node))):
        return False
    return any(map(REFERENCE.search, [*_words(node), place.name]))


def _is_held_against(place: Place) -> bool:
    """Whether a function takes a reference's loss from one that is none."""
    return any(
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Sub)
        and any(map(LOSS.search, _words(node.left)))
        and not any(map(REFERENCE.search, _words(node.left)))
        and any(map(REFERENCE.search, _words(node.right)))
        and any(map(LOSS.search, _words(node.right)))
        for node in place.nodes
    )


def _stands_at_the_source(places: list[Place]) -> bool:
    """Whether a model's losses stand where predictions are made."""
    at_source = False
    for place in places:
        for node in place.nodes:
            if isinstance(node, ast.Call) and (of := _in_front(node)) is not None:
                if any(map(LOSS.search, _words(of))) and not _is_of_reference(of, place):
                    return False
            elif isinstance(node, ast.Call) and called_name(node) == "pad" and len(node.args) > 1:
                loss = any(map(LOSS.search, _words(node.args[0]))) and not _is_of_reference(node.args[0], place)
                at_source |= loss and ast.unparse(node.args[1]) in BEHIND
        at_source |= any(_is_label_ahead(target) for target, _ in assignments_in(place.nodes))
    return at_source


def _is_label_ahead(target: ast.expr) -> bool:
    """Whether labels are written from the first place on, up to one in front of the end."""
    if not isinstance(target, ast.Subscript) or last_name(target.value) not in ("labels", "targets"):
        return False
    parts = target.slice.elts if isinstance(target.slice, ast.Tuple) else []
    second = parts[1] if len(parts) > 1 else None
    return isinstance(second, ast.Slice) and second.lower is None and second.upper is not None


def _finding(place: Place, node: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() moves a reference's losses one place back by `{ast.unparse(node)}`, and the model's "
        "stand where the prediction is made; allowed: both at one place",
        severity="warning",
        culprit=place.file.at(node, place.name),
        fix="pad behind: the loss at t is that of the token at t + 1 on both sides",
    )
