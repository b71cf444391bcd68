"""A prompt, or what a row's tokens are given, is counted from column 0 of rows that may be padded on the left.

## What it detects

`labels[i, :n_prompt] = -100` and `torch.arange(S) < n_prompt[:, None]` in a trainer that can pad on the left: the
columns that are left out are padding, and the prompt is trained on. Rewards of a row's documents that are written one
behind the other from column 0.

## Why it matters

With padding on the right all is well. With it on the left every row loses its mask by as much as it is shorter than
the longest, and what is trained on depends on which rows share a batch.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, where one of them pads on
the left: it has a setting for the side, or asks for "left". Findings are slices from 0 by the length of a prompt on the
second axis of something, comparisons of an `arange` with such a length for each row, and writes into a tensor of rows
at a place that begins at 0 for each row and goes on by its parts, in a function that neither reads the side nor an
offset (side, left, offset, start, shift, first, a length of padding) nor rolls or packs rows, nor puts the tokens
themselves there. What is kept for the place of a row is one too: a 0 in front of its length, in a loop that puts rows
at a place which depends on the side (`spans.append((row, 0, n))`), or places that are counted from 0 in a function
which such a one calls.

How wide a tensor of prompts is (`prompts.shape[1]`) is the length of none: all columns up to there are prompts with
their padding. Nor are those up to a place that is counted from the end, and tokens that are then put where a mask is
set, findings.

Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
labels[i, : row.n_prompt] = -100
```

Good:

```python
start = width - len(row) if side == "left" else 0
labels[i, start : start + row.n_prompt] = -100
```

## How to fix

Count from the first real token of the row.

## Known limits

Lengths that are not called after a prompt are not looked at here; a row's last token is GG442's.

## Sources

transformers, `tokenizer.padding_side`: rows for generation are padded on the left.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain

from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.recorded_starts import recorded
from gradgate.checks.source.recorded_starts import walked as of_row
from gradgate.checks.source.trainer import NONE, File, Function, dotted, files_of
from gradgate.checks.source.values import assignments_in, last_name, parameters_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG482", "counted-from-the-left"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SIDES = ('"left"', "'left'", "padding_side", "pad_side", "left_pad", "pad_left")
PROMPT = re.compile(r"prompt", re.IGNORECASE)
PACKS = re.compile(r"pack|concat|chunk", re.IGNORECASE)
MAKES = ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full")
OFFSET = re.compile(
    r"(^|_)(side|left|offset|off|start|shift|first|begin|pad(ding)?_side|lead)(_|$)|^(roll|flip|fliplr)$"
    r"|(^|_)pad(s|ding)?_(len|length|width|count)s?$|(^|_)(n|num)_pads?$"
)
TOKENS = re.compile(r"(^|_)(ids|tokens|inputs?)(_[A-Z]+)?$")
WIDTH = re.compile(r"\.(shape|size)$|(^|_)widths?$")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for prompts that are counted from column 0."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    pads_left = any(file.has(*SIDES) for file in files)
    places = places_in(files).functions if pads_left else ()
    findings = tuple(chain.from_iterable(_of_place(place, files) for place in places))
    return Outcome(findings, {"places": len(findings)}, {"places": 0})


def _of_place(place: Place, files: tuple[File, ...]) -> Iterator[Finding]:
    if not place.file.has("prompt", "= 0", " 0,", "=0", "(0)"):
        return
    for call in recorded(place):
        yield _finding(place.file, call, place.name)
    walked = _walked(place.function, place.nodes)
    if _knows_the_side(place.function, place.nodes, walked[1]):
        return
    if _lays_rows(place.nodes, walked):
        walked = set(), set()
    elif walked[1]:
        yield from (_finding(place.file, call, place.name) for call in of_row(place, places_in(files), walked[1]))
    put = {id(node.value) for node in place.nodes if isinstance(node, ast.Assign) and _is_masked(node.targets[0])}
    for node in place.nodes:
        if _is_of(node, walked):
            yield _finding(place.file, node, place.name)
        elif (length := _length(node)) is not None and id(node) not in put:
            is_of_all = isinstance(node, ast.Compare) or _is_of_all(node)
            if not (is_of_all and _is_width(length, place, files)):
                yield _finding(place.file, node, place.name)


def _length(node: ast.AST) -> ast.expr | None:
    """The length of a prompt up to which columns are counted."""
    if _is_slice(node):
        return node.slice.elts[1].upper  # type: ignore[attr-defined, no-any-return]
    return node.comparators[0] if isinstance(node, ast.Compare) and _is_comparison(node) else None


def _is_masked(target: ast.expr) -> bool:
    """Whether something is put where a mask is set: `rows[i, mask] = ...`."""
    parts = target.slice.elts if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Tuple) else []
    return len(parts) == 2 and isinstance(parts[1], ast.Name)


def _is_of_all(node: ast.AST) -> bool:
    """Whether a slice is of all rows: `[:, :n]`, `[..., :n]`."""
    first = node.slice.elts[0]  # type: ignore[attr-defined]
    return ast.unparse(first) in (":", "...")


def _is_width(length: ast.expr, place: Place, files: tuple[File, ...], hops: int = 2) -> bool:
    """Whether a length is how wide the tensor of all prompts is, by what it is made of or what all calls give."""
    parts = list(place.names.parts(length))
    if any(isinstance(part, ast.Attribute | ast.Name) and WIDTH.search(ast.unparse(part)) for part in parts):
        return True
    asked = [part.id for part in parts if isinstance(part, ast.Name) and part.id in place.parameters]
    places = places_in(files)
    for name in asked if hops else ():
        given = list(places.values_given(place, name))
        if given and all(_is_width(value, caller, files, hops - 1) for caller, value in given):
            return True
    return False


def _knows_the_side(function: Function, nodes: list[ast.AST], walked: set[str]) -> bool:
    """Whether a function reads the side, or an offset that is none of the places by which it goes on from 0."""
    words = [each.arg for each in parameters_of(function)]
    words += [last_name(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute | ast.Subscript)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(OFFSET.search(word) for word in words if word not in walked) or "left" in texts


def _walked(function: Function, nodes: list[ast.AST]) -> tuple[set[str], set[str]]:
    """Tensors of rows that a function makes, and places that begin at 0 and go on by each row's own lengths."""
    if PACKS.search(function.name):
        return set(), set()
    made, begun, moved = set(), set(), set()
    loops = [node for node in nodes if isinstance(node, ast.For)]
    inside = {id(part) for loop in loops for part in ast.walk(loop)}
    for target, value in assignments_in(nodes):
        name = dotted(target)
        if isinstance(value, ast.Call) and last_name(value.func) in MAKES and len(value.args) >= 1:
            made.add(name)
        elif isinstance(value, ast.Constant) and value.value == 0 and id(value) in inside:
            begun.add(name)
        elif isinstance(value, ast.Name) and id(value) in inside:
            moved.add(name)
    moved |= {dotted(node.target) for node in nodes if isinstance(node, ast.AugAssign) and id(node) in inside}
    return made, begun & moved


def _lays_rows(nodes: list[ast.AST], walked: tuple[set[str], set[str]]) -> bool:
    """Whether a function puts the tokens themselves at such places: it is what says where they are."""
    written = (node.targets[0] for node in nodes if isinstance(node, ast.Assign) and _is_of(node, walked))
    return any(isinstance(each, ast.Subscript) and TOKENS.search(last_name(each.value)) for each in written)


def _is_of(node: ast.AST, walked: tuple[set[str], set[str]]) -> bool:
    """Whether a tensor of rows is written at such a place of its second axis."""
    made, places = walked
    if not places or not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Subscript):
        return False
    target = node.targets[0]
    parts = target.slice.elts if isinstance(target.slice, ast.Tuple) else []
    if dotted(target.value) not in made or len(parts) < 2 or not isinstance(parts[1], ast.Slice):
        return False
    return parts[1].lower is not None and dotted(parts[1].lower) in places


def _is_slice(node: ast.AST) -> bool:
    """Whether the second axis is taken from 0 to the length of a prompt."""
    parts = node.slice.elts if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) else []
    if len(parts) < 2 or not isinstance(parts[1], ast.Slice):
        return False
    begin, end = parts[1].lower, parts[1].upper
    from_zero = begin is None or (isinstance(begin, ast.Constant) and begin.value == 0)
    return from_zero and end is not None and not isinstance(end, ast.UnaryOp) and _is_of_prompt(end)


def _is_comparison(node: ast.AST) -> bool:
    """Whether columns are held against the length of each row's prompt."""
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.ops[0], ast.Lt | ast.GtE):
        return False
    columns = ast.unparse(node.left)
    return bool(re.search(r"arange|columns?|cols?\b|positions?", columns)) and _is_of_prompt(node.comparators[0])


def _is_of_prompt(node: ast.expr) -> bool:
    return any(PROMPT.search(last_name(part)) for part in ast.walk(node))


def _finding(file: File, node: ast.AST, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() counts from column 0, in `{ast.unparse(node)}`; "
            "allowed: from its first token, since rows may be padded on the left"
        ),
        culprit=file.at(node, function),
        fix="count from the first real token of the row",
    )
