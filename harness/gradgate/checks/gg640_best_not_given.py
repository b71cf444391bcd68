"""The best is kept, and what leaves the training is the model as it stands at the end.

## What it detects

`best_state = copy.deepcopy(model.state_dict())` that nothing reads; `best_head.pt` that nothing reads, and behind the
loop the same module's weights under another name.

## Why it matters

What is exported, compared, or handed to the next stage are the last weights, those that early stopping was to throw
away, under the score of the best. Nothing raises, and the log has the best score.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A best is kept where a
branch that decides (a comparison, or a call) copies a `state_dict()` into a name with "best" in it, or saves under a
name or by a function with "best" in it. That is a finding where it happens in a loop, or in a function that one calls,
and

* a copy of that name is read by nothing, lines of a log and `is None` aside;
* no load, path or argument names a best file, and behind the loop, with no load in between, the same module is saved
  or exported, or the same function saves, under a name that does not say that it is the last.

Statistic: such bests; allowed: 0. A warning, since who reads a file may not be in the source.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
    if score < best:
        best = score
        torch.save(model.head.state_dict(), folder / "best_head.pt")
torch.save(model.head.state_dict(), folder / "head.pt")
```

Good:

```python
model.head.load_state_dict(torch.load(folder / "best_head.pt"))
torch.save(model.head.state_dict(), folder / "head.pt")
```

## How to fix

Load the best behind the loop, before anything is given on; or let the next stage read the best's file.

## Known limits

Files whose names are given by the configuration are taken for ones that are read. Whether a stage begins with what the
one before it has learnt is GG615's, which runs it; that the copy is one is GG617's.

## Sources

A checkpoint fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.kept_bests import SPEAKS, Around, Kept, is_read, kept_bests, loops_around, modules_in
from gradgate.checks.source.places import Places, read_as_one
from gradgate.checks.source.trainer import dotted
from gradgate.checks.source.values import last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG640", "best-not-given"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
GIVES = re.compile(r"save|export|publish|push_to|write|dump", re.IGNORECASE)
OF_THE_END = re.compile(
    r"last|latest|final|\bend|best|step|epoch|swa|ema|average|resum|log|metric|summar|report|histor|config|json|csv"
    r"|yaml|opt",
    re.IGNORECASE,
)
PUTS_BACK = re.compile(r"load|restor|swap|copy_|best|revert|apply|rollback", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Follow each best that is kept to whoever reads it."""
    return read_as_one(subject, [("best",), ("state_dict", "save")], _of_all, "bests")


def _of_all(own: Places) -> Iterator[Finding]:
    seen: set[str] = set()
    for kept in kept_bests(own):
        around = list(loops_around(kept.place, kept.branch, own))
        if not around or (kept.name and not kept.modules) or is_read(kept, own, by_saves=True):
            continue
        if kept.name:
            if kept.name not in seen and "." in kept.name:
                seen.add(kept.name)
                yield _finding(kept, f"`{kept.name}` is read by nothing")
            continue
        for one in around:
            given = next(_given(kept, one), None)
            if given is not None and str(id(given)) not in seen:
                seen.add(str(id(given)))
                yield _finding(
                    kept, f"nothing reads it, and line {given.lineno} gives the last: `{ast.unparse(given)}`"
                )


def _given(kept: Kept, around: Around) -> Iterator[ast.Call]:
    """What gives the same module on behind a loop, as it is."""
    end = around.loop.end_lineno or 0
    behind = [node for node in around.place.nodes if getattr(node, "lineno", 0) > end]
    calls = sorted((node for node in behind if isinstance(node, ast.Call)), key=lambda call: call.lineno)
    by = dotted(kept.node.func) if isinstance(kept.node, ast.Call) else ""
    for call in calls:
        name = dotted(call.func)
        if PUTS_BACK.search(ast.unparse(call)) and not SPEAKS.search(name):
            return
        if not GIVES.search(name.rpartition(".")[2]) or OF_THE_END.search(_told(call)):
            continue
        modules = modules_in([call])
        if any(_are_one(here, there) for here in modules for there in kept.modules) or (
            by == name and not modules and around.place.owner is kept.place.owner and _has_text(call)
        ):
            yield call


def _told(call: ast.Call) -> str:
    """The texts of a save, and the last parts of its names."""
    parts = list(ast.walk(call))
    inner = {id(part.value) for part in parts if isinstance(part, ast.Attribute)}
    texts = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
    texts += [last_name(part) for part in parts if isinstance(part, ast.Name | ast.Attribute) and id(part) not in inner]
    return " ".join(text for text in texts if text != "state_dict")


def _are_one(here: str, there: str) -> bool:
    """Whether two modules are one, or one is a part of the other."""
    here, there = f"{here.removeprefix('self.')}.", f"{there.removeprefix('self.')}."
    return here.startswith(there) or there.startswith(here)


def _has_text(call: ast.Call) -> bool:
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in ast.walk(call))


def _finding(kept: Kept, told: str) -> Finding:
    function = kept.place.name
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() keeps the best by `{ast.unparse(kept.node)}`, and {told}; allowed: none",
        severity="warning",
        culprit=kept.place.file.at(kept.node, function),
        fix="load the best behind the loop before anything is given on, or let who comes next read the best",
    )
