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

Say what no data means: an error that names it, at the beginning, or a number; of a loss none that is the best (GG496).

## Known limits

Counts that are tensors, and divisions in another function, are not seen. That a caller never hands over nothing is not
known here.

## Sources

The `undefined-loop-variable` rule of pylint, for the second kind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from gradgate.checks.source.trainer import File, Function, dotted, names_in, read_file_by_file
from gradgate.checks.source.values import is_empty_list, own_nodes
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
    return read_file_by_file(subject, _of_file, "loops")


@dataclass(frozen=True)
class _Text:
    """What stands in a function.

    Args:
        nodes: without those of functions in it.
        asked: the names that it asks anything of.
        loops: over data, with what each goes over as it is written.
    """

    nodes: tuple[ast.AST, ...]
    asked: frozenset[str]
    loops: tuple[tuple[ast.For, str], ...]


def _read(function: Function) -> _Text:
    nodes = tuple(own_nodes(function))
    asked = frozenset(name for node in nodes for test in _tests(node) for name in names_in(test))
    return _Text(nodes, asked, tuple((n, over) for n in nodes if isinstance(n, ast.For) and (over := _data(n.iter))))


def _of_file(file: File) -> Iterator[Finding]:
    for function, _ in file.functions:
        text = _read(function)
        found = next(chain(_divided(text), _unbound(function, text)), None)
        if found is not None:
            node, told = found
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{function.name}() {told}; allowed: none",
                culprit=file.at(node, function.name),
                fix=FIX,
            )


def _data(over: ast.expr) -> str:
    """What a loop goes over, where that may be nothing."""
    if isinstance(over, ast.Call):
        name = dotted(over.func)
        if name == "range" and len(over.args) == 1 and not isinstance(over.args[0], ast.Constant):
            return ast.unparse(over.args[0]) if isinstance(over.args[0], ast.Name | ast.Attribute) else ""
        return _data(over.args[0]) if name in WRAPPERS and over.args else ""
    return ast.unparse(over) if isinstance(over, ast.Name | ast.Attribute) else ""


def _divided(text: _Text) -> Iterator[tuple[ast.AST, str]]:
    for loop, over in text.loops:
        if over in text.asked:
            continue
        inside = set(map(id, ast.walk(loop)))
        counts = (_begun(text.nodes, inside, _is_zero) & _moved(loop)) - text.asked
        lists = (_begun(text.nodes, inside, is_empty_list) & _filled(loop)) - text.asked
        counted = counts | {f"len({name})" for name in lists}
        for node in text.nodes:
            if id(node) in inside or getattr(node, "lineno", 0) < loop.lineno:
                continue
            by = ast.unparse(node.right) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else ""
            mean = isinstance(node, ast.Call) and dotted(node.func) in MEANS and node.args
            of = ast.unparse(node.args[0]) if mean else ""  # type: ignore[attr-defined]
            if by in counted:
                yield node, f"divides by `{by}`, which is 0 where the loop over `{over}` has nothing to go over"
            elif by == f"len({over})":
                yield node, f"divides by `{by}`, which is 0 where there is nothing in it"
            elif of in lists:
                yield node, f"takes the mean of `{of}`, which is empty where `{over}` has nothing to go over"


def _begun(nodes: Iterable[ast.AST], inside: set[int], begins: Callable[[ast.expr], bool]) -> set[str]:
    """The names whose last value outside of the loop is one that it begins with."""
    begun: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Assign) and id(node) not in inside:
            for name, given in _pairs(node):
                begun = begun | {name} if begins(given) else begun - {name}
    return begun


def _is_zero(given: ast.expr) -> bool:
    return isinstance(given, ast.Constant) and given.value == 0


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


def _unbound(function: Function, text: _Text) -> Iterator[tuple[ast.AST, str]]:
    given = {arg.arg for arg in ast.walk(function.args) if isinstance(arg, ast.arg)}
    outer = {name for node in text.nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    for loop, over in text.loops:
        if over in text.asked or loop.orelse or not DATA.search(over):
            continue
        inside = set(map(id, ast.walk(loop)))
        bound = _names(ast.walk(loop), ast.Store)
        elsewhere = _names((node for node in text.nodes if id(node) not in inside), ast.Store) | given | outer
        for node in text.nodes:
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
