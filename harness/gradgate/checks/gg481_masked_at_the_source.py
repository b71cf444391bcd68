"""Targets are masked by what the token in front of them is, so that the first token of a completion is never trained.

## What it detects

`targets = ids[:, 1:]` beside `prompt_mask[:, :-1]`, or the shifted targets of a head beside the mask of its positions:
a mask of prompts or completions that is taken where a prediction is made, and not where its target stands.

## Why it matters

What follows the prompt's last token is the first of the completion, and the only one that is learnt from the prompt
alone. It is left out in every row, and with it k + 1 tokens of head k; generation begins with exactly that token.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. In a function, targets are
ids, tokens or labels from a later place on, `ids[:, k:]`, those rolled back, or what they are put into at `[:, :n]`; a
mask is what is called after a prompt, a completion, a response or an answer, or a mask of what is trained that callers
make of one. Findings are targets, or losses of them, that are chosen by such a mask without its end (`[:, :-1]`,
`[:, :n]`), or, where targets have all places, by the mask as it is: by `masked_fill`, `where`, an index, a product,
`&`, or in one call of a loss; and shifted labels that are masked up to the length of a prompt.

Masks that are made one place early (`- 1` where they are filled), or asked at the target as well, are clean. Statistic:
such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
targets = ids[:, 1:]
labels = targets.masked_fill(prompt_mask[:, :-1], -100)
```

Good:

```python
labels = targets.masked_fill(prompt_mask[:, 1:], -100)
```

## How to fix

Take the mask at the places of the targets.

## Known limits

Masks whose names say nothing of a prompt or a completion, and that no caller in the trainer makes, are not known.

## Sources

The `labels` of transformers' causal models: they are masked as tokens, and shifted afterwards.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.shifted_targets import CUT, FULL, LOSS, WHOLE, Alignment
from gradgate.checks.source.trainer import File, called_name, given_by
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG481", "masked-at-the-source"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
_PART = r"(prompt|completion|response|answer|assistant|instruction)"
OF_TOKENS = re.compile(
    rf"^(is|in|from|on)_{_PART}s?$|{_PART}s?_?(masks?|flags?|only)$|^mask_?(of_)?{_PART}s?$", re.IGNORECASE
)
TRAINED = re.compile(
    r"(train|loss|target|label|supervised|learn|score)\w*_?mask$|^(trained|scored|counted)$", re.IGNORECASE
)
MAKES = re.compile(rf"(^|_){_PART}(s|_mask|_only|_flags)?$", re.IGNORECASE)
LENGTH = re.compile(rf"{_PART}s?_?(len|length|lens|lengths|size|count|tokens)$|^n_{_PART}s?$", re.IGNORECASE)
EARLY = re.compile(r"- 1\b|\b1:|roll\(|shift")
FIX = "take the mask at the places of the targets"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for targets that are masked by the token in front of them."""
    return read_place_by_place(subject, _may_mask, _of_place, "places")


def _may_mask(file: File) -> bool:
    return file.has("mask", "prompt") and file.has(":]", ":,", "roll(", ": ")


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    text = "\n".join(place.file.lines[place.function.lineno - 1 : place.function.end_lineno])
    if not ("mask" in text or "prompt" in text or "completion" in text) or not re.search(r"\w:|roll\(|\d:", text):
        return
    held = Alignment(lambda node: _is_of_tokens(node, place, places))
    for node in sorted((each for each in place.nodes if isinstance(each, ast.stmt)), key=lambda each: each.lineno):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr):
            for part in ast.walk(node):
                if isinstance(part, ast.expr) and _is_chosen(part, held, text):
                    yield _finding(place, part)
                    return
            held.passed(node)


def _is_of_tokens(node: ast.expr, place: Place, places: Places) -> bool:
    """Whether a mask says of each token whether it is a prompt's or a completion's."""
    name = last_name(node)
    if OF_TOKENS.search(name):
        return not _is_early(name, places)
    if not TRAINED.search(name) or not isinstance(node, ast.Name) or name not in place.parameters:
        return False
    for caller, value in places.values_given(place, name):
        parts = list(caller.names.parts(value))
        named = any(MAKES.search(last_name(part)) for part in parts if isinstance(part, ast.Name | ast.Attribute))
        if named and not any(EARLY.search(ast.unparse(part)) for part in parts) and not _is_early(name, places):
            return True
    return False


def _is_early(name: str, places: Places) -> bool:
    """Whether a mask of this name is made one place early somewhere."""
    for place in places.all:
        if not place.file.has(name):
            continue
        for target, value in assignments_in(place.nodes):
            written = target.value if isinstance(target, ast.Subscript) else target
            if last_name(written) == name and EARLY.search(f"{ast.unparse(target)} {ast.unparse(value)}"):
                return True
        words = (word for node in place.nodes if isinstance(node, ast.Call) for word in node.keywords)
        if any(word.arg == name and EARLY.search(ast.unparse(word.value)) for word in words):
            return True
    return False


def _is_chosen(node: ast.expr, held: Alignment, text: str) -> bool:
    """Whether targets are chosen by a mask of the places in front of them."""
    if isinstance(node, ast.Subscript):
        if isinstance(node.slice, ast.Tuple | ast.Slice):
            return _is_up_to_a_prompt(node, held, text)
        return _go_together(held, node.value, node.slice)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.BitAnd):
        return _go_together(held, node.left, node.right) or _go_together(held, node.right, node.left)
    if not isinstance(node, ast.Call):
        return False
    name = called_name(node)
    if name.startswith("masked_") and isinstance(node.func, ast.Attribute) and node.args:
        return _go_together(held, node.func.value, node.args[0]) or (
            len(node.args) > 1 and _go_together(held, node.args[0], node.args[1])
        )
    if name == "where" and len(node.args) == 3:
        return any(_go_together(held, each, node.args[0]) for each in node.args[1:])
    if LOSS.search(name):
        return any(
            _go_together(held, one, other) for one in given_by(node) for other in given_by(node) if one is not other
        )
    return False


def _go_together(held: Alignment, target: ast.expr, mask: ast.expr) -> bool:
    ahead, places = held.target(target), held.mask(mask)
    return (ahead == CUT and places == {CUT}) or (ahead == FULL and places == {WHOLE})


def _is_up_to_a_prompt(node: ast.Subscript, held: Alignment, text: str) -> bool:
    """Whether shifted labels are written up to the length of a prompt, where no token stands in front of it."""
    if not isinstance(node.ctx, ast.Store) or not held.target(node.value) or re.search("bos", text, re.IGNORECASE):
        return False
    last = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
    if not isinstance(last, ast.Slice) or last.upper is None:
        return False
    if last.lower is not None and ast.unparse(last.lower) != "0":
        return False
    if isinstance(last.upper, ast.Call):
        return called_name(last.upper) == "len" and bool(MAKES.search(last_name(last.upper.args[0])))
    return bool(LENGTH.search(last_name(last.upper)))


def _finding(place: Place, node: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() masks targets in `{ast.unparse(node)[:120]}` by the tokens in front of them: the "
        "first token of a completion is never trained; allowed: by the targets' own",
        culprit=place.file.at(node, place.name),
        fix=FIX,
    )
