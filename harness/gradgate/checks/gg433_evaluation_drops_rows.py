"""An evaluation drops the rows of its last batch.

## What it detects

A loader of held-out rows with `drop_last=True`, which was copied from the one that trains.

## Why it matters

Rows at the end of the data are never looked at, which ones depends on the size of a batch, and a held-out set that is
smaller than one batch has no score at all.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports): calls with `drop_last=True`
whose function, or whose result, is called after an evaluation. Statistic: such calls. Allowed: 0.

False-alarm rate: 0 where names say what they are.

## Example

Bad:

```python
val_loader = DataLoader(heldout, batch_size=8, drop_last=True)
```

Good:

```python
val_loader = DataLoader(heldout, batch_size=8)
```

## How to fix

Let the last batch be smaller, and weigh what it gives by its rows or tokens.

## Known limits

A flag that is handed on as a variable is not followed.

## Sources

A boundary fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source_values import outwards, parents_in
from gradgate.checks.trainer_source import File, calls_in, dotted, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG433", "evaluation-drops-rows"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EVALUATION = re.compile(r"(^|_)(eval|evaluation|val|valid|validation|held_?out|holdout|test|dev)(_|$)", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for loaders of an evaluation that drop their last batch."""
    return read_file_by_file(subject, _found, "loaders_that_drop")


def _found(file: File) -> Iterator[Finding]:
    if not file.has("drop_last"):
        return
    parents = parents_in(file.tree)
    for call in calls_in(file.tree):
        flags = [word.value for word in call.keywords if word.arg == "drop_last"]
        if flags and isinstance(flags[0], ast.Constant) and flags[0].value is True:
            name = next((name for name in _names(call, parents) if EVALUATION.search(name)), None)
            if name is not None:
                yield _finding(file, call, name)


def _names(call: ast.Call, parents: dict[int, ast.AST]) -> Iterator[str]:
    """What a call's result, or else its function, is called."""
    around = list(outwards(call, parents))
    for node in around:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (dotted(target).rpartition(".")[2] for target in targets)
            return
        if isinstance(node, ast.keyword) and node.arg:
            yield node.arg
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
            return


def _finding(file: File, call: ast.Call, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{name}` drops the rows of its last batch (`drop_last=True`): none of them counts; allowed: all do",
        culprit=file.at(call),
        fix="leave `drop_last` to the loader that trains",
        detail={"loader": name},
    )
