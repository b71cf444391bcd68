"""An evaluation drops the rows of its last batch.

## What it detects

A loader of held-out rows with `drop_last=True`, which was copied from the one that trains; a function or class of the
trainer's own that makes whole batches alone, and makes those of the evaluation, too.

## Why it matters

Rows at the end of the data are never looked at, which ones depends on the size of a batch, and a held-out set that is
smaller than one batch has no score at all.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports): calls with `drop_last=True`
whose function, or whose result, is called after an evaluation; and calls of the trainer's own functions and classes,
called so, that drop: which have a parameter `drop_last` whose default is True and that is not given, or, without one,
run over `range(len(rows) // size)`, also as the class's own `__len__`. Statistic: such calls. Allowed: 0.

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

A flag that is handed on as a variable is not followed, nor one that is given by its position.

## Sources

A boundary fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.evaluation_names import EVALUATION, given_names
from gradgate.checks.source_values import outwards, parents_in
from gradgate.checks.trainer_source import NONE, File, Function, calls_in, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG433", "evaluation-drops-rows"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for batches of an evaluation that drop the last rows."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    dropping = {name for file in files for name in _dropping(file)}
    found = [finding for file in files for finding in _found(file, dropping)]
    return Outcome(tuple(found), {"loaders_that_drop": len(found)}, {"loaders_that_drop": 0})


def _found(file: File, dropping: set[str]) -> Iterator[Finding]:
    if not file.has("drop_last", *dropping):
        return
    parents = parents_in(file.tree)
    for call in calls_in(file.tree):
        flags = [word.value for word in call.keywords if word.arg == "drop_last"]
        own = dotted(call.func).rpartition(".")[2]
        if any(isinstance(flag, ast.Constant) and flag.value is True for flag in flags):
            how = "`drop_last=True`"
        elif not flags and own in dropping:
            how = f"`{own}` makes whole batches alone"
        else:
            continue
        name = next(filter(EVALUATION.search, _names(call, parents)), None)
        if name is not None:
            yield _finding(file, call, name, how)


def _dropping(file: File) -> Iterator[str]:
    """The functions and classes of a file that give whole batches alone."""
    for function, owner in file.functions if file.has("drop_last", "//") else ():
        arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        flags = [each.arg for each in arguments if "drop" in each.arg]
        name = owner.name if owner is not None else function.name
        if flags:
            if _default(function, "drop_last") is True and (owner is None or function.name == "__init__"):
                yield name
        elif owner is None and _counts_whole(function):
            yield name
        elif owner is not None and (_counts_whole(function) or _runs_over_its_length(function, owner)):
            yield from () if "drop" in ast.unparse(owner) else [name]


def _default(function: Function, name: str) -> object:
    """The constant that a parameter is where it is not given."""
    last, named = function.args.defaults, function.args.kwonlyargs
    by_place = [*function.args.posonlyargs, *function.args.args]
    pairs = [
        *zip(by_place[len(by_place) - len(last) :], last, strict=True),
        *zip(named, function.args.kw_defaults, strict=True),
    ]
    return next((value.value for each, value in pairs if each.arg == name and isinstance(value, ast.Constant)), None)


def _counts_whole(function: Function) -> bool:
    """Whether it runs over as many whole batches as there are."""
    return any(_is_whole(part) for call in _ranges(function) for part in call.args)


def _runs_over_its_length(function: Function, owner: ast.ClassDef) -> bool:
    lengths = [each for each in owner.body if isinstance(each, ast.FunctionDef) and each.name == "__len__"]
    returned = [node.value for each in lengths for node in ast.walk(each) if isinstance(node, ast.Return)]
    return any(ast.unparse(part) == "len(self)" for call in _ranges(function) for part in call.args) and any(
        value is not None and _is_whole(value) for value in returned
    )


def _ranges(function: Function) -> Iterator[ast.Call]:
    """The ranges that batches are taken from: of those over which something is yielded or cut."""
    yields = any(isinstance(node, ast.Yield) for node in ast.walk(function))
    return (call for call in calls_in(function) if yields and dotted(call.func) == "range")


def _is_whole(node: ast.expr) -> bool:
    """Whether a number is `len(rows) // size`."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.FloorDiv)
        and isinstance(node.left, ast.Call)
        and dotted(node.left.func) == "len"
    )


def _names(call: ast.Call, parents: dict[int, ast.AST]) -> list[str]:
    """What a call's result, or else its function, is called."""
    for node in outwards(call, parents):
        if names := [node.name] if isinstance(node, Function) else given_names(node):
            return names
    return []


def _finding(file: File, call: ast.Call, name: str, how: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{name}` drops the rows of its last batch ({how}): none of them counts; allowed: all do",
        culprit=file.at(call),
        fix="leave `drop_last` to the loader that trains",
        detail={"loader": name},
    )
