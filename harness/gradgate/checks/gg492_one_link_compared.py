"""Labels of all heads are held back at a document's last token alone.

## What it detects

A packed row's documents are compared at neighbouring tokens (`doc[:, 1:] == doc[:, :-1]`), and a loop over the heads
takes that for the label of each: head 0 predicts the next token, head 1 the one behind it.

## Why it matters

Head k at token t predicts token t + k + 1. Where t is not the last of its document and t + k + 1 is of the next one,
the label is a token that nothing in front of it tells of: the heads behind the first train on noise at each edge, and
weights of heads are taken from values of another document.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, at loops that take tokens by
as much as a head is ahead (`ids[:, k + 1 :]`, `torch.roll(ids, -(k + 1))`). A finding is one where the documents'
numbers (doc, document, segment, sequence id) are compared with those of the neighbour, by slices, `roll`, `cat` or
`diff`, and

* that mask, or one that is made of it, is read in the loop, or the comparison stands in it; or
* the labels that the loop writes are masked by it behind the loop, or by another function of the same file.

Where any of them is compared at another distance, or with where its document ends, where the mask is carried on from
head to head, or where `cumsum` or the like is taken, all is well. Statistic: such comparisons; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
same_BS = doc_BS[:, 1:] == doc_BS[:, :-1]
for k in range(H):
    keep = same_BS[:, : S - k - 1]
```

Good:

```python
for k in range(H):
    keep = doc_BS[:, k + 1 :] == doc_BS[:, : S - k - 1]
```

## How to fix

Compare the document of t with that of t + k + 1, for each head.

## Known limits

Documents that end at a token (`ids == eos`) are not known here.

## Sources

A boundary fault of most trainers that were read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain

from gradgate.checks.source.document_links import is_carried, is_far, is_otherwise, linked, neighbours
from gradgate.checks.source.head_shifts import HeadLoop, head_loops
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG492", "one-link-compared"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LABELS = re.compile(r"label|target", re.IGNORECASE)
TEXTS = ("doc", "seg", "seq_id", "sequence_id", "Doc", "Seg")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for labels of all heads that are held back by one comparison."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    places: dict[int, list[Place]] = {}
    for place in places_in(files).functions:
        if place.file.has(*TEXTS) and place.file.has("range(", "enumerate("):
            places.setdefault(id(place.file), []).append(place)
    findings = tuple(chain.from_iterable(map(_of_file, places.values())))
    return Outcome(findings, {"comparisons": len(findings)}, {"comparisons": 0})


def _of_file(places: list[Place]) -> Iterator[Finding]:
    loops = [loop for place in places for loop in head_loops(place)]
    heads = sorted({loop.head for loop in loops})
    if not loops or any(is_far(place, heads) for place in places):
        return
    for loop in loops:
        if not _gives(loop) or is_carried(loop):
            continue
        found = _of_loop(loop) or next((each for place in places if (each := _behind(place, loop))), None)
        if found is not None and not any(is_otherwise(place, loop.head) for place in (loop.place, found[0])):
            place, node = found
            yield _finding(place.file, node, place.name)


def _gives(loop: HeadLoop) -> bool:
    """Whether a loop writes, keeps or adds up something of each head."""
    for node in loop.nodes:
        if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Call) and called_name(node) == "append"):
            return True
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            return True
    return False


def _of_loop(loop: HeadLoop) -> tuple[Place, ast.AST] | None:
    """The comparison of neighbours that a loop reads, or that stands in it."""
    links = linked(loop.place, loop.head)
    inside = set(map(id, loop.nodes))
    for node in neighbours(loop.place, loop.head):
        if id(node) in inside:
            return loop.place, node
    for part in loop.nodes:
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in links:
            return loop.place, links[part.id]
    return None


def _behind(place: Place, loop: HeadLoop) -> tuple[Place, ast.AST] | None:
    """The comparison of neighbours by which the labels of a loop are masked."""
    written = {
        dotted(node.targets[0].value)
        for node in loop.nodes
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
    }
    links = linked(place, loop.head)
    compared = {id(node): node for node in neighbours(place, loop.head)}
    if not compared or (place is not loop.place and not any(map(LABELS.search, written))):
        return None
    for node in place.nodes:
        masked, mask = _masked(node)
        if masked is None or mask is None or not dotted(masked) or dotted(masked) not in written:
            continue
        for part in ast.walk(mask):
            found = compared.get(id(part)) or (links.get(part.id) if isinstance(part, ast.Name) else None)
            if found is not None:
                return place, found
    return None


def _masked(node: ast.AST) -> tuple[ast.expr | None, ast.expr | None]:
    """What is masked, and by what: `labels.masked_fill(mask, x)`, `labels[mask] = x`, `where(mask, labels, x)`."""
    if isinstance(node, ast.Call) and called_name(node) in ("masked_fill", "masked_fill_") and node.args:
        return getattr(node.func, "value", None), node.args[0]
    if isinstance(node, ast.Call) and called_name(node) == "where" and len(node.args) == 3:
        return node.args[1], node.args[0]
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        return node.targets[0].value, node.targets[0].slice
    return None, None


def _finding(file: File, node: ast.AST, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() compares neighbours alone, by `{ast.unparse(node)}`, for the labels of all heads: those of "
            "head 1 and on reach into the next document; allowed: none"
        ),
        culprit=file.at(node, function),
        fix="compare the document of t with that of t + k + 1 for each head: `doc[:, k + 1 :] == doc[:, : S - k - 1]`",
    )
