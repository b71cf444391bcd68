"""An evaluation drops the rows of its last batch.

## What it detects

A loader of held-out rows with `drop_last=True`, which was copied from the one that trains, or which shares that with
it by a mapping, a setting or a function that makes both; a function or class of the trainer's own that makes whole
batches alone, and makes those of the evaluation, too.

## Why it matters

Rows at the end of the data are never looked at, which ones depends on the size of a batch, and a held-out set that is
smaller than one batch has no score at all.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports): calls with `drop_last=True`,
also in a mapping that is handed on by `**`, whose function, or whose result, is called after an evaluation: the name,
the keyword, the key, one of the names that a loop is over, or, where that says nothing, as the name of a function that
makes several says nothing of each, the first argument; where none of these tells, and the function is named after an
evaluation and gives the result back or runs over it, the function's name; such calls
by a setting that is no evaluation's own (`config.drop_last`) and also given where no evaluation is; calls of a function
that gives back what such a flag of its own makes, or what another one gives it; and calls of the trainer's own
functions and classes, called so, that drop: which have a parameter `drop_last` whose default is True and that is not
given, or, without one, run over `range(len(rows) // size)`, also as the class's own `__len__`, or over `range(0,
len(rows) - size + 1, size)`, or pass over a part that is shorter than a size; and such ranges over which a function
that is called after an evaluation cuts rows. Statistic: such calls and ranges. Allowed: 0.

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

A flag that is given by its position is not followed.

## Sources

A boundary fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from types import UnionType

from gradgate.checks.source.dropped_rows import dropped_in, held_out_name
from gradgate.checks.source.evaluation_names import EVALUATION
from gradgate.checks.source.places import Places, places_in
from gradgate.checks.source.trainer import NONE, File, Function, called_name, calls_in, dotted, files_of, nodes_in
from gradgate.checks.source.values import Names, defaults_of, is_true, own_nodes, parameters_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG433", "evaluation-drops-rows"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False

TOKENS = re.compile(r"(^|[^a-z])(\w*ids|\w*tokens?|text|stream|buffer|seq\w*|x|s)$", re.IGNORECASE)  # what is no row


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for batches of an evaluation that drop the last rows."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    dropping = {name for file in files for name in _dropping(file)}
    own = places_in(files)
    found = [finding for file in files for finding in _cut_there(file)]
    found += [*_found(own, dropping)]
    if any(file.has("drop_last") for file in files):
        found += [_finding(each.place.file, each.flag, each.name, each.how) for each in dropped_in(own)]
    return Outcome(tuple(found), {"loaders_that_drop": len(found)}, {"loaders_that_drop": 0})


def _found(own: Places, dropping: set[str]) -> Iterator[Finding]:
    for place in (place for place in own.all if place.file.has("drop_last", *dropping)):
        for call in (node for node in place.nodes if isinstance(node, ast.Call)):
            flags = [word.value for word in call.keywords if word.arg in ("drop_last", None)]
            called = called_name(call)
            if any(map(is_true, flags)):
                how = "`drop_last=True`"
            elif not flags and called in dropping:
                how = f"`{called}` makes whole batches alone"
            else:
                continue
            if name := held_out_name(call, place):
                yield _finding(place.file, call, name, how)


def _cut_there(file: File) -> Iterator[Finding]:
    """The ranges of whole batches over which an evaluation itself cuts its rows."""
    for function, _ in file.functions if file.has("range(") else ():
        if EVALUATION.search(function.name):
            names = Names(function)
            for call in _cut_over(ast.For | ast.ListComp | ast.GeneratorExp, own_nodes(function)):
                if _stops_early(call, names):
                    yield _finding(file, call, function.name, f"`{ast.unparse(call)}`")


def _dropping(file: File) -> Iterator[str]:
    """The functions and classes of a file that give whole batches alone."""
    for function, owner in file.functions if file.has("drop_last", "//", "range(", "yield") else ():
        flags = [each.arg for each in parameters_of(function) if "drop" in each.arg]
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
    pairs = defaults_of(function.args)
    return next((value.value for each, value in pairs if each.arg == name and isinstance(value, ast.Constant)), None)


def _counts_whole(function: Function) -> bool:
    """Whether it runs over as many whole batches as there are, or leaves out the one that is not."""
    names = Names(function)
    return any(_stops_early(call, names) for call in _ranges(function)) or _leaves_out_the_rest(function)


def _stops_early(call: ast.Call, names: Names) -> bool:
    """Whether a range ends in front of what does not fill a batch."""
    held = [names.held(part) for part in call.args]
    if any(map(_is_whole, held)):
        return True
    stop = held[1] if len(held) == 3 else None
    if isinstance(stop, ast.BinOp) and isinstance(stop.op, ast.Add):
        stop = stop.left
    if not isinstance(stop, ast.BinOp) or not _is_length(stop.left) or not isinstance(stop.op, ast.Sub):
        return False
    return ast.unparse(stop.right) == ast.unparse(call.args[2])  # len(rows) - size + 1


def _leaves_out_the_rest(function: Function) -> bool:
    """Whether a part that is shorter than a size is passed over, and others are yielded behind."""
    nodes = own_nodes(function)
    yielded = {ast.unparse(node.value) for node in nodes if isinstance(node, ast.Yield) and node.value is not None}
    return any(
        isinstance(node, ast.If)
        and isinstance(node.body[-1], ast.Break | ast.Continue | ast.Return)
        and not any(isinstance(part, ast.Yield) for part in nodes_in(node.body))
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.ops[0], ast.Lt | ast.NotEq)
        and isinstance(node.test.left, ast.Call)
        and not isinstance(node.test.comparators[0], ast.Constant)
        and _is_length(node.test.left)
        and ast.unparse(node.test.left.args[0]) in yielded
        for node in (nodes if yielded else ())
    )


def _runs_over_its_length(function: Function, owner: ast.ClassDef) -> bool:
    lengths = [each for each in owner.body if isinstance(each, ast.FunctionDef) and each.name == "__len__"]
    returned = [node.value for each in lengths for node in ast.walk(each) if isinstance(node, ast.Return)]
    return any(ast.unparse(part) == "len(self)" for call in _ranges(function) for part in call.args) and any(
        value is not None and _is_whole(value) for value in returned
    )


def _ranges(function: Function) -> Iterator[ast.Call]:
    """The ranges that batches are taken from: of those over which something is yielded or cut."""
    yields = any(isinstance(node, ast.Yield) for node in ast.walk(function))
    if yields:
        return (call for call in calls_in(function) if dotted(call.func) == "range")
    return _cut_over(ast.ListComp | ast.GeneratorExp, ast.walk(function))


def _cut_over(kinds: type | UnionType, nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """The ranges over which rows are cut: by a loop, or in a list."""
    for node in nodes:
        if isinstance(node, kinds):
            body = node.body if isinstance(node, ast.For) else [node.elt]  # type: ignore[attr-defined]
            over = node.iter if isinstance(node, ast.For) else node.generators[0].iter  # type: ignore[attr-defined]
            cuts = any(isinstance(part, ast.Slice) for part in nodes_in(body))
            if cuts and isinstance(over, ast.Call) and dotted(over.func) == "range":
                yield over


def _is_whole(node: ast.expr) -> bool:
    """Whether a number is `len(rows) // size`, that many times a size, or 1 at least."""
    if isinstance(node, ast.Call) and dotted(node.func) == "max" and len(node.args) == 2:
        return any(map(_is_whole, node.args))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _is_whole(node.left)
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv) and _is_length(node.left)


def _is_length(node: ast.expr) -> bool:
    """Whether a number is how many rows there are."""
    is_length = isinstance(node, ast.Call) and dotted(node.func) == "len" and len(node.args) == 1
    return is_length and not TOKENS.search(ast.unparse(node.args[0]))  # type: ignore[attr-defined]


def _finding(file: File, call: ast.expr, name: str, how: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{name}` drops the rows of its last batch ({how}): none of them counts; allowed: all do",
        culprit=file.at(call),
        fix="leave `drop_last` to the loader that trains",
        detail={"loader": name},
    )
