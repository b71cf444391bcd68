"""A sequence loses its beginning, and the length of that beginning is used as before.

## What it detects

`ids = ids[-n:]` of a prompt and a response, and behind it the length of the prompt, as it was, as the place where the
response begins.

## Why it matters

What was cut off counts as if it were there: the first tokens of the response are taken for tokens of the prompt, and
are not trained, or not rewarded. It happens in long rows alone, and without an error.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A sequence is cut where a
name is assigned its own end, `x[-n:]` or `x[len(x) - n:]`. Its parts are the names of which it was made in front of
that. A finding is a `len(part)` behind the cut, or a name that holds one from in front of it, that is stored, given on,
compared with places, or reckoned with; not where something is subtracted from it, where a condition asks for it, or in
a text.

Statistic: such lengths; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
ids = prompt + response
ids = ids[-max_length:]
return Row(ids, prompt_length=len(prompt))
```

Good:

```python
cut = max(0, len(ids) - max_length)
return Row(ids[cut:], prompt_length=max(0, len(prompt) - cut))
```

## How to fix

Subtract what was cut, and no more than there was; or cut the prompt before the two are joined.

## Known limits

Cuts that keep an end under another name, and lengths that another function takes, are not seen.

## Sources

The `truncation_side` of transformers' tokenizers: on the left, offsets of the text are moved as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source_values import Names, assignments_in, outwards, own_nodes, parents_in
from gradgate.checks.trainer_source import File, Function, dotted, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG440", "length-of-what-was-cut"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each function that cuts a sequence in front."""
    return read_file_by_file(subject, _of_file, "lengths")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("[-", "[len("):
        return
    parents: dict[int, ast.AST] = {}
    for function, _ in file.functions:
        nodes = own_nodes(function)
        for cut, name, made in _cuts(nodes, function):
            parents = parents or parents_in(file.tree)
            for node, part in _lengths(nodes, cut, made):
                if _is_used(node, parents):
                    yield _finding(file, node, function.name, name, part, cut)


def _cuts(nodes: list[ast.AST], function: Function) -> Iterator[tuple[ast.expr, str, set[str]]]:
    """What cuts a sequence in front, the sequence's name, and the names of which it was made."""
    names = Names(function)
    for target, value in assignments_in(nodes):
        name = dotted(target)
        for part in ast.walk(value) if name else ():
            if isinstance(part, ast.Subscript) and dotted(part.value) == name and _is_an_end(part.slice, name):
                before = names.held(part.value)
                made = {each.id for each in ast.walk(before) if isinstance(each, ast.Name)}
                yield value, name, made - {name} if before is not part.value else set()
                break


def _is_an_end(piece: ast.expr, name: str) -> bool:
    if not isinstance(piece, ast.Slice) or piece.upper is not None or piece.step is not None:
        return False
    lower = piece.lower
    negative = isinstance(lower, ast.UnaryOp) and isinstance(lower.op, ast.USub)
    return negative or (isinstance(lower, ast.BinOp) and ast.unparse(lower).startswith(f"len({name}) - "))


def _lengths(nodes: list[ast.AST], cut: ast.expr, made: set[str]) -> Iterator[tuple[ast.expr, str]]:
    """The lengths behind a cut of the parts that are longer since, each with the part's name."""
    lines = {id(value): value.lineno for _, value in assignments_in(nodes)}
    behind = cut.end_lineno or cut.lineno
    held: dict[str, str] = {}
    for target, value in assignments_in(nodes):
        if isinstance(target, ast.Name) and lines[id(value)] < cut.lineno and (part := _length_of(value, made)):
            held[target.id] = part
    again = {dotted(target) for target, value in assignments_in(nodes) if lines[id(value)] > behind}
    for node in nodes:
        if not isinstance(node, ast.expr) or node.lineno <= behind:
            continue
        if (part := _length_of(node, made)) and part not in again:
            yield node, part
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in held and node.id not in again:
            yield node, held[node.id]


def _length_of(node: ast.expr, made: set[str]) -> str:
    """The name whose length an expression is; empty: none of these."""
    if isinstance(node, ast.Call) and dotted(node.func) == "len" and len(node.args) == 1:
        return name if (name := dotted(node.args[0])) in made else ""
    return ""


def _is_used(node: ast.AST, parents: dict[int, ast.AST]) -> bool:
    """Whether a number is stored, given on or reckoned with, as it is."""
    before = node
    for around in outwards(node, parents):
        if isinstance(around, ast.BinOp) and isinstance(around.op, ast.Sub):
            return False
        if isinstance(around, ast.JoinedStr):
            return False
        if isinstance(around, ast.If | ast.IfExp | ast.While) and before is around.test:
            return False
        if isinstance(around, ast.stmt):
            return isinstance(around, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr | ast.For)
        before = around
    return False


def _finding(file: File, node: ast.expr, function: str, name: str, part: str, cut: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() cuts `{name}` in front in line {cut.lineno}, and takes the length of `{part}` as if it were "
            "whole; allowed: what is left of it"
        ),
        culprit=file.at(node, function),
        fix="subtract what was cut, and no more than there was; or cut the part before the sequence is made",
    )
