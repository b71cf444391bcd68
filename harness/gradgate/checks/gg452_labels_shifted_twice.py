"""Labels that are ahead already are moved once more, or the weights of all heads by what the first one is ahead.

## What it detects

`logits[:, :-1, 0]` beside `labels[:, 1:, 0]`, where labels have an axis of heads: those of head k at t are the token at
t + k + 1, and need no shift. `weights[:, 1:]` for each head, where the targets of head k begin at k + 1.

## Why it matters

The first head is held against the token after the next. A loss trains it on that; an accuracy of a model that is right
is next to chance, and decides which weights are kept. Weights that are the next token's for all heads weigh what the
others predict by what stands in front of it: only the first head learns what was to be learnt more.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are labels, or
targets, by their name, that are indexed by three places of which the second begins at 1 and the third is one head,
in a function that takes something else, of no such name, without its last position. Weights, scores or advantages are
findings where they are taken from a number on (`weights[:, 1 : 1 + n]`) and multiplied with a loss, in a function whose
targets, there or in a function that is given the head's number, begin the further on, the further ahead a head is; and
where they are cut at the end alone (`weights[:, :-h]`), if they are 0 where the labels of the same places do not count
(`labels != -100`, multiplied or filled up): such weights are of tokens and not of the places that predict them.

Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
hits = logits[:, :-1, 0].argmax(-1) == labels[:, 1:, 0]      # labels [B, S, H]
```

Good:

```python
hits = logits[:, :, 0].argmax(-1) == labels[:, :, 0]
```

## How to fix

Compare position by position: the labels say what is ahead.

## Known limits

Labels without an axis of heads may be shifted or not, and are not looked at. What a loss takes is GG412's, which runs
it.

## Sources

The `shift_logits` and `shift_labels` of transformers' causal models, whose labels are the tokens themselves.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, dotted, read_file_by_file
from gradgate.checks.source.values import own_nodes
from gradgate.checks.source.weights_ahead import behind_targets, one_slice
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG452", "labels-shifted-twice"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LABELS = re.compile(r"(^|_)(labels?|targets?)(_|$)", re.IGNORECASE)
OF_HEADS = 3  # axes of labels [B, S, H]


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read how labels of heads are indexed."""
    outcome = read_file_by_file(subject, _of_file, "places")
    if outcome.not_applicable:
        return outcome
    weights = read_place_by_place(subject, lambda file: file.has("[:, "), _of_weights, "places")
    findings = (*outcome.findings, *weights.findings)
    return Outcome(findings, {"places": len(findings)}, {"places": 0})


def _of_weights(place: Place, places: Places) -> Iterator[Finding]:
    ahead = "", "`weights[:, head + 1 :]`"
    behind = "which is of tokens and 0 where none is a label, ", "`weights[:, head:]` for `labels[:, head:]`"
    found = [
        *((*each, *ahead) for each in one_slice(place, places)),
        *((*each, *behind) for each in behind_targets(place, places)),
    ]
    for node, head, of_what, right in found:
        yield Finding(
            code=CODE,
            name=NAME,
            message=(
                f"{place.name}() weighs the loss of each head by `{ast.unparse(node)}`, {of_what}and the targets move "
                f"with `{head}`; allowed: weights of the targets"
            ),
            culprit=place.file.at(node, place.name),
            fix=f"take weights from where the targets are: {right}",
        )


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("1:"):
        return
    for function, _ in file.functions:
        indexed = [node for node in own_nodes(function) if isinstance(node, ast.Subscript)]
        shortened = [node for node in indexed if _second(node) == (None, "-1") and not _is_of_labels(node)]
        for node in indexed if shortened else ():
            if _second(node) == ("1", None) and _is_of_labels(node) and _is_of_one_head(node):
                yield _finding(file, node, function.name)


def _second(node: ast.Subscript) -> tuple[str | None, str | None] | None:
    """Where the slice of the second axis begins and ends."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    if len(parts) < 2 or not isinstance(parts[1], ast.Slice):
        return None
    begin, end = (None if part is None else ast.unparse(part) for part in (parts[1].lower, parts[1].upper))
    return begin, end


def _is_of_labels(node: ast.Subscript) -> bool:
    return bool(LABELS.search(dotted(node.value).rpartition(".")[2]))


def _is_of_one_head(node: ast.Subscript) -> bool:
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    return len(parts) == OF_HEADS and not isinstance(parts[2], ast.Slice)


def _finding(file: File, node: ast.Subscript, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() takes `{ast.unparse(node)}`, which is ahead already, from the next place; allowed: its own"
        ),
        culprit=file.at(node, function),
        fix="compare position by position: labels of heads say what is ahead",
    )
