"""An encoder gives what it does not know the id of padding, though its vocabulary has one for the unknown.

## What it detects

`[self.ids.get(char, 0) for char in text]` beside `PAD, BOS, EOS, UNK = range(4)`; `vocabulary.get(word, PAD)`.

## Why it matters

A mask that goes by the id, `ids != PAD`, takes the unknown token out of its row: it is not attended to, its label is
ignored, and the length of the row is one less. What is rare in training is common in the rows that are held out.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are `.get(x, y)` in
functions that are called after encoding, tokens or ids, of files which name an id for the unknown (`UNK`, `unk_id`,
`"<unk>"`), where y is what the file calls its padding, or that number.

Statistic: such look-ups; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
PAD, BOS, EOS, UNK = range(4)
ids = [table.get(char, 0) for char in text]
```

Good:

```python
ids = [table.get(char, UNK) for char in text]
```

## How to fix

Give it the id of the unknown token.

## Known limits

Vocabularies of another file whose names are not imported are not seen.

## Sources

Sennrich et al. 2016, arXiv:1508.07909, on what a closed vocabulary does to words that it lacks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name
from gradgate.checks.source.values import assignments_in, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG495", "unknown-is-padding"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
ENCODES = re.compile(r"encod|token|(^|_)ids?(_|$)|numericali|lookup|convert", re.IGNORECASE)
UNKNOWN = re.compile(r"(^|_)unk(nown)?(_|$)|<unk>|\[UNK\]", re.IGNORECASE)
PADDING = re.compile(r"(^|_)pad(ding)?(_|$)|^<pad>$|^\[PAD\]$", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for look-ups that end at padding."""
    return read_place_by_place(subject, lambda file: bool(_pads(file)), _found, "unknown_is_padding")


def _found(place: Place, _places: Places) -> Iterator[Finding]:
    if not ENCODES.search(place.name):
        return
    names, numbers = zip(*_pads(place.file), strict=True)
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        if called_name(call) != "get" or len(call.args) != 2 or not isinstance(call.func, ast.Attribute):
            continue
        default = call.args[1]
        is_number = isinstance(default, ast.Constant) and type(default.value) is int and default.value in numbers
        if is_number or last_name(default) in names:
            text = f"{place.name}() gives what `{ast.unparse(call.func.value)}` does not have the id of padding"
            text += f" (`{ast.unparse(default)}`), and there is one for the unknown; allowed: that"
            at = place.file.at(call, place.name)
            yield Finding(CODE, NAME, text, culprit=at, fix="give it the id of the unknown token")


def _pads(file: File) -> list[tuple[str, int | None]]:
    """What a file that has an id for the unknown calls its padding, with the number where it is written there."""
    if not file.has("unk", "UNK", "Unk"):
        return []
    named = dict(_ids(file))
    if not any(map(UNKNOWN.search, named)):
        return []
    aliases = ((last_name(target), last_name(value)) for target, value in assignments_in(file.nodes))
    named |= {name: named.get(of) for name, of in aliases if of in named and named.get(name) is None}
    return [(name, number) for name, number in named.items() if PADDING.search(name)]


def _ids(file: File) -> Iterator[tuple[str, int | None]]:
    """The names that a file assigns, or declares in a mapping or a list of special tokens, with their numbers."""
    for target, value in assignments_in(file.nodes):
        places = places_of(target)
        counted = isinstance(value, ast.Call) and called_name(value) == "range" and len(places) > 1
        for at, place in enumerate(places):
            yield last_name(place), at if counted else _number(value)
        elements = value.elts if isinstance(value, ast.List | ast.Tuple) else []
        if len(places) == 1:
            texts = [each.value for each in elements if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            yield from ((text, at) for at, text in enumerate(texts) if len(texts) == len(elements))
        else:
            for place, each in zip(places, elements, strict=False):
                yield last_name(place), _number(each)
        if isinstance(value, ast.Dict):
            for key, held in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, _number(held)


def _number(value: ast.expr) -> int | None:
    return value.value if isinstance(value, ast.Constant) and type(value.value) is int else None
