"""`itertools.cycle` keeps the batches of the first epoch and gives them again for ever.

## What it detects

`batches = itertools.cycle(train_loader)`: a loader that shuffles is asked once, and what it gave then is what every
later epoch gives, in that order.

## Why it matters

Rows never meet others again, and every batch of the data stays in memory. The loss falls as ever; what shuffling is
for does not happen.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are calls of
`itertools.cycle` of a loader, by its name (loader, batches), of training, or of one that the same file makes with
`shuffle`, or of a call that is given `shuffle`; not of one whose name is of an evaluation, or that is told
`shuffle=False`.

Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
batches = itertools.cycle(train_loader)
```

Good:

```python
def forever(loader):
    while True:
        yield from loader
```

## How to fix

Ask the loader anew for each epoch.

## Known limits

A loader that is handed to a function under another name is not followed.

## Sources

Python, `itertools.cycle`: it saves a copy of each element, and repeats from the copy.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.trainer import File, dotted, read_file_by_file
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG476", "first-epoch-for-ever"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LOADS = re.compile(r"loader|(^|_)(dl|batches|stream)(_|$)", re.IGNORECASE)
EVALUATES = re.compile(r"(^|_)(val|valid|validation|eval|held|heldout|test|dev)(_|$)", re.IGNORECASE)
TRAINS = re.compile(r"(^|_)train", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for loaders that are kept."""
    return read_file_by_file(subject, _of_file, "calls")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("cycle("):
        return
    made = {last_name(target): value for target, value in assignments_in(file.nodes)}
    for node in file.nodes:
        if isinstance(node, ast.Call) and dotted(node.func) in ("itertools.cycle", "cycle") and len(node.args) == 1:
            loader = node.args[0]
            name = last_name(loader.func if isinstance(loader, ast.Call) else loader)
            if not LOADS.search(name) or EVALUATES.search(name):
                continue
            maker = loader if isinstance(loader, ast.Call) else made.get(name)
            shuffles = _shuffles(maker)
            if shuffles or (shuffles is None and TRAINS.search(name)):
                yield _finding(file, node)


def _shuffles(maker: ast.expr | None) -> bool | None:
    """Whether a loader is told to shuffle; None: it is told nothing."""
    if not isinstance(maker, ast.Call):
        return None
    told = {word.arg: word.value for word in maker.keywords}
    if "shuffle" in told:
        return not (isinstance(told["shuffle"], ast.Constant) and not told["shuffle"].value)
    return True if {"sampler", "batch_sampler"} & told.keys() else None


def _finding(file: File, node: ast.Call) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{ast.unparse(node)}` gives the batches of the first epoch for ever; allowed: a new order each epoch",
        culprit=file.at(node),
        fix="ask the loader anew for each epoch: `while True: yield from loader`",
    )
