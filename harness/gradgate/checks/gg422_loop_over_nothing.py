"""What stands behind a loop over data fails where the loop had nothing to go over.

## What it detects

A mean over a loader that divides by a count which only the loop moves from 0; the mean of a list that only the loop
fills; a name that only the loop gives and that is read behind it.

## Why it matters

A held-out set of fewer rows than a batch, a loader that drops its last batch, a filter that leaves no row, no epoch at
all: the run trains for hours and then ends with ZeroDivisionError or UnboundLocalError, often before it has saved.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, function by function, at
loops over data: what an argument or an attribute holds, over its `enumerate`, `zip` or `tqdm` too, and over a `range`
of a setting. Findings are:

* a division by a name that is 0 before the loop and added to in it, or by the `len` of what the loop goes over, or
  the `len` or the `statistics.mean` of a list that is empty before the loop and filled in it;
* a name that is read behind a loop over epochs, steps or what is called after data, and assigned nowhere but in it.

Where the function asks anything of the count, the list or what is gone over (`if n`, `max(n, 1)`, `n or 1`, a
`while`), it is taken for guarded. One finding a function. Allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for batch in loader:
    total += loss_of(batch)
    count += 1
return total / count
```

Good:

```python
return total / max(count, 1)                                 # or an error that says that there is no data
```

## How to fix

Say what no data means: an error that names it, at the beginning, or a number.

## Known limits

Counts that are tensors, and divisions in another function, are not seen. That a caller never hands over nothing is not
known here.

## Sources

The `undefined-loop-variable` rule of pylint, for the second kind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain

from gradgate.checks.trainer_source import NONE, File, Function, dotted, files_of, functions_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG422", "loop-over-nothing"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WRAPPERS = ("enumerate", "zip", "tqdm", "tqdm.tqdm", "iter", "islice", "reversed")
MEANS = ("statistics.mean", "statistics.fmean")
DATA = re.compile(r"epoch|loader|batch|data|rows|example|prompt|sample|(^|_)(steps|val|test|eval)")
FIX = "say what no data means: an error at the beginning that names it, or a number for it"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what stands behind each loop over data."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(chain.from_iterable(_of_file(file) for file in files))
    return Outcome(findings, {"loops": len(findings)}, {"loops": 0})


def _of_file(file: File) -> Iterator[Finding]:
    for function, _ in functions_of(file.tree):
        found = next(chain(_divided(function), _unbound(function)), None)
        if found is not None:
            node, told = found
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{function.name}() {told}; allowed: none",
                culprit=file.at(node, function.name),
                fix=FIX,
            )


def _loops(function: Function) -> Iterator[tuple[ast.For, str]]:
    """The loops over data of a function, and what they go over as it is written."""
    for node in _own(function):
        if isinstance(node, ast.For) and (over := _data(node.iter)):
            yield node, over


def _own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions in it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def _data(over: ast.expr) -> str:
    """What a loop goes over, where that may be nothing."""
    if isinstance(over, ast.Call):
        name = dotted(over.func)
        if name == "range" and len(over.args) == 1 and not isinstance(over.args[0], ast.Constant):
            return ast.unparse(over.args[0]) if isinstance(over.args[0], ast.Name | ast.Attribute) else ""
        return _data(over.args[0]) if name in WRAPPERS and over.args else ""
    return ast.unparse(over) if isinstance(over, ast.Name | ast.Attribute) else ""


def _divided(function: Function) -> Iterator[tuple[ast.AST, str]]:
    nodes = list(_own(function))
    asked = {text for node in nodes for test in _tests(node) for text in _texts(test)}
    for loop, over in _loops(function):
        inside = set(map(id, ast.walk(loop)))
        counts = _begun(nodes, inside, (0,)) & _moved(loop)
        lists = _begun(nodes, inside, ()) & _filled(loop)
        for node in nodes:
            if id(node) in inside or getattr(node, "lineno", 0) < loop.lineno:
                continue
            by = ast.unparse(node.right) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else ""
            mean = isinstance(node, ast.Call) and dotted(node.func) in MEANS and node.args
            of = ast.unparse(node.args[0]) if mean else ""  # type: ignore[attr-defined]
            counted = (counts | {f"len({name})" for name in lists - asked}) - asked
            if by in counted and over not in asked:
                yield node, f"divides by `{by}`, which is 0 where the loop over `{over}` has nothing to go over"
            elif by == f"len({over})" and over not in asked:
                yield node, f"divides by `{by}`, which is 0 where there is nothing in it"
            elif of in lists - asked and over not in asked:
                yield (
                    node,
                    f"takes the mean of `{of}`, which is empty where `{over}` has nothing to go over",
                )


def _begun(nodes: list[ast.AST], inside: set[int], value: tuple[int, ...]) -> set[str]:
    """The names that are 0, or an empty list, and nothing else outside of the loop."""
    begun: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Assign) and id(node) not in inside:
            for name, given in _pairs(node):
                is_zero = isinstance(given, ast.Constant) and given.value in value and bool(value)
                is_empty = isinstance(given, ast.List) and not given.elts and not value
                begun = begun | {name} if is_zero or is_empty else begun - {name}
    return begun


def _pairs(node: ast.Assign) -> Iterator[tuple[str, ast.expr]]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(map(ast.unparse, target.elts), node.value.elts, strict=False)
        elif isinstance(target, ast.Name):
            yield target.id, node.value


def _moved(loop: ast.For) -> set[str]:
    return {ast.unparse(node.target) for node in ast.walk(loop) if isinstance(node, ast.AugAssign)}


def _filled(loop: ast.For) -> set[str]:
    return {
        ast.unparse(node.func.value)
        for node in ast.walk(loop)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("append", "extend")
    }


def _tests(node: ast.AST) -> list[ast.expr]:
    """What is asked at a node."""
    if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
        return [node.test]
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.Call) and dotted(node.func) in ("max", "len"):
        return node.args if dotted(node.func) == "max" else []
    return []


def _texts(test: ast.expr) -> set[str]:
    return {ast.unparse(node) for node in ast.walk(test) if isinstance(node, ast.Name | ast.Attribute)}


def _unbound(function: Function) -> Iterator[tuple[ast.AST, str]]:
    nodes = list(_own(function))
    asked = {text for node in nodes for test in _tests(node) for text in _texts(test)}
    given = {arg.arg for arg in ast.walk(function.args) if isinstance(arg, ast.arg)}
    outer = {name for node in nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    for loop, over in _loops(function):
        if over in asked or loop.orelse or not DATA.search(over):
            continue
        inside = set(map(id, ast.walk(loop)))
        bound = _names(ast.walk(loop), ast.Store)
        elsewhere = _names((node for node in nodes if id(node) not in inside), ast.Store) | given | outer
        for node in nodes:
            behind = id(node) not in inside and getattr(node, "lineno", 0) > (loop.end_lineno or loop.lineno)
            read = node.id if behind and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else ""
            if read in bound - elsewhere:
                yield node, f"reads `{read}` behind the loop over `{over}`, the only place that gives it a value"


def _names(nodes: Iterator[ast.AST], context: type[ast.expr_context]) -> set[str]:
    """Names that are written there, comprehensions aside; imports, handlers and definitions too."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, context):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler | Function | ast.ClassDef) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names
