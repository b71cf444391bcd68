"""Positions are counted from the first column, in a trainer that may pad on the left.

## What it detects

`positions = torch.arange(width)` for all rows of a batch, or `self.position(torch.arange(ids.shape[1]))`, where a
setting may put padding in front of a row.

## Why it matters

A row's first token then has the position of the padding in front of it: how many columns that are depends on the
longest row of its batch. The same row gets other hidden states, values and losses beside other rows, and other ones in
training than in a generation without padding. On the right nothing of it shows.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, of a trainer in which a
padding side of `left` is spoken of. Findings are names of positions that are given an `arange` over the width of a
batch, functions of such a name that return one, and embeddings of positions that are called with one, where nothing
that always runs behind it in the same function counts anew (`cumsum`, `cummax`, `where`, a subtraction).

Where nothing of that is found, and rows are padded on the left by a function that is called so, or a generation says
that of its prompts, a finding is a call in a function that generates, which gives a model of the trainer's the mask and
no positions, where that takes both and what stands in for positions that are not given is such an `arange`.

Statistic: such positions; allowed: 0. A warning: a model whose positions are relative is not changed by it.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
positions = torch.arange(ids.shape[1]).expand_as(ids)
```

Good:

```python
positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
```

## How to fix

Count from each row's first real token: `(mask.cumsum(dim=1) - 1).clamp(min=0)`.

## Known limits

Positions that are made by a function of their own and subtracted from elsewhere are not followed.

## Sources

transformers, `position_ids` of left-padded batches in generation with decoder-only models.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain

from gradgate.checks.source.column_positions import POSITIONS, is_count, is_counted_anew, is_handed_on, is_over_a_width
from gradgate.checks.source.left_padding import may_pad_on_the_left
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, given_by
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG490", "positions-count-padding"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
_ONE_ROW = re.compile(r"generat|decod|sampl", re.IGNORECASE)
_MASK = re.compile(r"(^|_)mask$")
_MODELS = re.compile(r"(^|_)(model|net|network|policy|actor|lm|module|student)$")
_PADS_LEFT = re.compile(r"left_?pad|pad\w*_left|lpad", re.IGNORECASE)
_SAYS_LEFT = re.compile(r"left[- ]padd|padd\w* (on|to) the left|padd\w* left", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for positions that no row begins."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    able = any(file.has("arange(") for file in files) and may_pad_on_the_left(files)
    findings = tuple(chain.from_iterable(map(_of_place, places_in(files).functions))) if able else ()
    if not findings and any(file.has("arange(") for file in files):
        findings = tuple(_of_generations(files))
    return Outcome(findings, {"positions": len(findings)}, {"positions": 0})


def _of_place(place: Place) -> Iterator[Finding]:
    if _ONE_ROW.search(place.name):
        return
    for target, value in assignments_in(place.nodes):
        name = last_name(target)
        made = POSITIONS.search(name) and is_over_a_width(value, place)
        if made and is_handed_on(name, place) and not is_counted_anew(name, value, place):
            yield _finding(place, value, name)
    for node in place.nodes if POSITIONS.search(place.name) else ():
        if isinstance(node, ast.Return) and node.value is not None and is_over_a_width(node.value, place):
            yield _finding(place, node.value, place.name)
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        if POSITIONS.search(called_name(call)) and any(is_over_a_width(given, place) for given in given_by(call)[:1]):
            yield _finding(place, call, called_name(call))


def _of_generations(files: tuple[File, ...]) -> Iterator[Finding]:
    """The calls of a generation that give a mask, and leave positions to what counts from the first column."""
    own = places_in(files)
    taking = [place for place in own.functions if place.name in ("forward", "__call__") and _takes_both(place)]
    filled = [place for place in own.functions if _fills_in(place)] if taking else []
    if not filled:
        return
    pads = any(_PADS_LEFT.search(place.name) for place in own.functions) or may_pad_on_the_left(files)
    for place in (place for place in own.functions if _ONE_ROW.search(place.name)):
        if pads or _SAYS_LEFT.search(ast.get_docstring(place.function) or ""):
            for call in (node for node in place.nodes if isinstance(node, ast.Call)):
                told = [one for one in taking if _may_be(call, place, one)]
                if told and not any(word.arg is None for word in call.keywords) and _leaves_out(call, told):
                    yield _finding(place, call, called_name(call), "lets")


def _takes_both(place: Place) -> bool:
    return any(map(POSITIONS.search, place.parameters)) and any(map(_MASK.search, place.parameters))


def _fills_in(place: Place) -> bool:
    """Whether a function makes positions that it was not given by an `arange`, whatever the mask says."""
    given = [(last_name(target), value) for target, value in assignments_in(place.nodes)]
    own = [(name, value) for name, value in given if POSITIONS.search(name) and name in place.parameters]
    return any(is_over_a_width(value, place) for _, value in own) and not any(is_count(value) for _, value in own)


def _may_be(call: ast.Call, place: Place, taking: Place) -> bool:
    """Whether a call is one of a model's: of `self`, whose class it is, or of what is called after a model."""
    name = called_name(call)
    if dotted(call.func) == "self":
        return place.owner is taking.owner
    return bool(_MODELS.search(name)) and {word.arg for word in call.keywords} <= set(taking.parameters)


def _leaves_out(call: ast.Call, taking: list[Place]) -> bool:
    """Whether a call gives a mask and no positions, to any of those that it may go to."""
    given = [set(place.given(call)) for place in taking]
    return all(any(map(_MASK.search, each)) and not any(map(POSITIONS.search, each)) for each in given)


def _finding(place: Place, node: ast.expr, name: str, does: str = "counts") -> Finding:
    told = f"counts `{name}` from the first column, and rows may be padded on the left"
    if does == "lets":
        told = f"gives {name}() a mask and no positions, which count from the first column of rows padded on the left"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() {told}; allowed: from each row's first real token",
        severity="warning",
        culprit=place.file.at(node, place.name),
        fix="count from each row's first real token: `(mask.cumsum(dim=1) - 1).clamp(min=0)`",
    )
