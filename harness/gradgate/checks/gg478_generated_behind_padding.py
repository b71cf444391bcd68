"""Text is generated from prompts that are padded on the right, and the next token is read off the last column.

## What it detects

`model(ids)[:, -1]`, of which the next token is taken, where `ids` are rows of prompts with their padding behind them.

## Why it matters

The longest prompt of a batch goes on as it should. All others go on behind their padding: their first token is what the
model says of a padding token, and the rest follows from it. Rewards and accuracies of short prompts are noise, and
depend on which prompts share a batch; with one prompt at a time nothing is to be seen.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are functions that
take a token (argmax, multinomial, a sample) of a model's output at `[:, -1]`. Findings are those whose model is given
rows that are padded on the right, through names, calls of the trainer's functions and what callers give: by
`row + [pad] * n`, `F.pad(row, (0, n))`, `pad_sequence`, a tensor of padding that is written at `[i, : len(row)]`, or a
tokenizer with `padding=True` where no file says a side.

Functions that know a side, flip their rows, or read each row at its own end (`gather`, `lengths - 1`), and models that
are given the columns up to a place alone, are clean. Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
ids = torch.tensor([p + [pad] * (longest - len(p)) for p in prompts])
for _ in range(n):
    ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], 1)
```

Good:

```python
ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
```

## How to fix

Pad prompts on the left, with positions and a mask that leave the padding out; or read each row at its last token.

## Known limits

Batches of a loader, and libraries' own `generate`, are not followed.

## Sources

transformers, "A decoder-only architecture is being used, but right-padding was detected" of `generate`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.right_padding import is_filled, pads_behind
from gradgate.checks.source.trainer import NONE, called_name, dotted, files_of, given_by
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG478", "generated-behind-padding"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
TAKES = re.compile(
    r"argmax|multinomial|categorical|^_?(sample|pick|choose|draw|select)\w*|next_tokens?$|topk", re.IGNORECASE
)
KNOWS = re.compile(
    r"\bleft|padding_side|pad_side|\bflip|\broll\(|gather|take_along|len\w*( |\) )- 1\b|(?<!cum)sum\([^)]*\) - 1\b"
)
SIDES = ("padding_side", "left")
MODEL = re.compile(
    r"model|net|policy|actor|forward|logits|lm$|\bself$|module|decoder|trunk|student|agent", re.IGNORECASE
)
HOPS = 6  # names and calls that are followed
FIX = "pad prompts on the left, or read each row at its own last token"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for tokens that are read behind padding."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    known = {file for file in files if file.has(", -1]", ", -1,")}
    any_side = any(file.has(*SIDES) for file in files)
    found = [finding for place in (places_in(files).functions if known else ()) if place.file in known
             for finding in _of_place(place, places_in(files), any_side)]  # fmt: skip
    return Outcome(tuple(found), {"places": len(found)}, {"places": 0})


def _of_place(place: Place, places: Places, any_side: bool) -> Iterator[Finding]:
    read = [node for node in place.nodes if isinstance(node, ast.Subscript) and _is_last_column(node)]
    if not read or not any(isinstance(node, ast.Call) and TAKES.search(called_name(node)) for node in place.nodes):
        return
    if KNOWS.search(ast.unparse(place.function)):
        return
    for node in read:
        for call in _models(node, place):
            if any(_is_padded(each, place, places, any_side) for each in given_by(call)):
                yield Finding(
                    code=CODE,
                    name=NAME,
                    message=f"{place.name}() takes the next token from `{ast.unparse(node)}` of prompts that are "
                    "padded on the right: all but the longest go on behind their padding; "
                    "allowed: from each row's last token",
                    culprit=place.file.at(node, place.name),
                    fix=FIX,
                )
                return


def _is_last_column(node: ast.Subscript) -> bool:
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    return len(parts) > 1 and isinstance(parts[0], ast.Slice) and ast.unparse(parts[1]) == "-1"


def _models(node: ast.Subscript, place: Place) -> Iterator[ast.Call]:
    """The calls of a model that an output is made by."""
    for part in place.names.parts(node.value, 2):
        if isinstance(part, ast.Call) and MODEL.search(dotted(part.func)) and not dotted(part.func).startswith("torch"):
            yield part


def _is_padded(node: ast.expr, place: Place, places: Places, any_side: bool, hops: int = HOPS) -> bool:
    """Whether an expression is made of rows that are padded on the right."""
    if not hops or KNOWS.search(ast.unparse(place.function)):
        return False
    for part in _whole(node):
        if pads_behind(part, any_side) or is_filled(part, place):
            return True
        if isinstance(part, ast.Call):
            called = places.called(part, place)
            if called is not None and called is not place and _pads_within(called, places, any_side, hops - 1):
                return True
        elif isinstance(part, ast.Name):
            for value, where in _values(part, place, places):
                if _is_padded(value, where, places, any_side, hops - 1):
                    return True
    return False


def _whole(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression, without rows that are cut at a place."""
    parts = node.slice.elts if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) else []
    if any(isinstance(each, ast.Slice) and each.upper is not None for each in parts):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _whole(child)


def _values(node: ast.Name, place: Place, places: Places) -> Iterator[tuple[ast.expr, Place]]:
    """What a name holds, what is appended to it, and what callers give for it; each with where it stands."""
    held = place.names.held(node)
    if held is not node:
        yield held, place
    else:
        parted = [
            each for each in place.nodes if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Tuple)
        ]
        for each in parted:
            if each.lineno < node.lineno and node.id in map(dotted, each.targets[0].elts):  # type: ignore[attr-defined]
                yield each.value, place
    for call in (each for each in place.nodes if isinstance(each, ast.Call)):
        if dotted(call.func) == f"{node.id}.append":
            yield call.args[0], place
    if held is node and node.id in place.parameters:
        yield from ((value, caller) for caller, value in places.values_given(place, node.id))


def _pads_within(place: Place, places: Places, any_side: bool, hops: int) -> bool:
    """Whether a function pads rows on the right, itself or by one that it calls."""
    if not hops or KNOWS.search(ast.unparse(place.function)):
        return False
    if any(pads_behind(node, any_side) or is_filled(node, place) for node in place.nodes):
        return True
    calls = (node for node in place.nodes if isinstance(node, ast.Call))
    others = (places.called(call, place) for call in calls)
    return any(
        each is not None and each is not place and _pads_within(each, places, any_side, hops - 1) for each in others
    )
