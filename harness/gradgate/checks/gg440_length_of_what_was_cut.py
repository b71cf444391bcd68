"""A sequence loses its beginning, and the length of that beginning is used as before.

## What it detects

`ids = ids[-n:]` of a prompt and a response, and behind it the length of the prompt, as it was, as the place where the
response begins.

## Why it matters

What was cut off counts as if it were there: the first tokens of the response are taken for tokens of the prompt, and
are not trained, or not rewarded. It happens in long rows alone, and without an error.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A sequence is cut where a
name is assigned its own end, `x[-n:]` or `x[len(x) - n:]`, and where the end is taken of what is joined of several,
`(prompt + response)[-n:]`, there or in a name that nothing reads behind, or by a function of the trainer's that gives
back the end of what it is given. Its parts are the names of which it was made; not one that is cut itself, or whose
length a branch in front asks for that leaves the function or the row. A finding is a `len(part)` behind the cut, or in
its statement, or a name that holds one from in front of it, that is stored, given on, compared with places, or
reckoned with; not where something is subtracted from it, or in the `min` beside it, where a condition asks for it, or
in a text.

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

Lengths that another function takes, and sequences that are joined by tensors' own functions, are not seen.

## Sources

The `truncation_side` of transformers' tokenizers: on the left, offsets of the text are moved as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import dotted
from gradgate.checks.source.values import Names, assignments_in, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG440", "length-of-what-was-cut"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each function that cuts a sequence in front."""
    return read_place_by_place(subject, lambda file: file.has("[-", "[len("), _of_place, "lengths", tops=True)


@dataclass(frozen=True)
class _Cut:
    """What cuts a sequence in front.

    Args:
        node: what is left of it.
        name: the sequence, as it is written.
        made: the names of which it was made.
        around: the statement that the cut stands in, where it may use a length as well; None: what is cut is assigned.
    """

    node: ast.expr
    name: str
    made: set[str]
    around: ast.stmt | None = None


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    nodes = place.nodes
    parents: dict[int, ast.AST] = {}
    seen = set[int]()
    ends = {dotted(node.value) for node in nodes if isinstance(node, ast.Subscript) and _is_an_end(node.slice, "")}
    for cut in (*_cuts(nodes, place.names), *_cut_whole(place, own)):
        parents = parents or parents_in(place.file.tree)
        for node, part in _lengths(nodes, cut):
            if id(node) not in seen and _is_used(node, parents, ends):
                seen.add(id(node))
                yield _finding(place, node, part, cut)


def _cuts(nodes: list[ast.AST], names: Names) -> Iterator[_Cut]:
    """The names that are assigned their own end."""
    for target, value in assignments_in(nodes):
        name = dotted(target)
        for part in ast.walk(value) if name else ():
            if isinstance(part, ast.Subscript) and dotted(part.value) == name and _is_an_end(part.slice, name):
                before = names.held(part.value)
                made = {each.id for each in ast.walk(before) if isinstance(each, ast.Name)}
                yield _Cut(value, name, made - {name} if before is not part.value else set())
                break


def _cut_whole(place: Place, own: Places) -> Iterator[_Cut]:
    """The ends of what several parts are joined to, there or in front, and of which nothing else is read behind.

    A function of the trainer's that gives back the end of what it is given cuts it as well.
    """
    nodes, names = place.nodes, place.names
    again = {dotted(target) for target, value in assignments_in(nodes) if _is_cut_itself(target, value)}
    for statement in (node for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return | ast.Expr)):
        for part in ast.walk(statement):
            whole = _whole(part, place, own)
            joined = names.held(whole) if isinstance(whole, ast.Name) else whole
            if whole is None or joined is None or not _is_joined(joined):
                continue
            if isinstance(whole, ast.Name) and (_is_read_again(whole, nodes, statement) or whole.id in again):
                continue
            made = {each.id for each in ast.walk(joined) if isinstance(each, ast.Name)} - again
            made = {name for name in made if not _is_refused(name, nodes, statement)}
            if made and isinstance(part, ast.expr):
                yield _Cut(part, ast.unparse(whole), made, statement)


def _whole(node: ast.AST, place: Place, own: Places) -> ast.expr | None:
    """What a node is the end of; None: of nothing."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return node.value if _is_an_end(node.slice, ast.unparse(node.value)) else None
    called = own.called(node, place) if isinstance(node, ast.Call) and node.args else None
    if called is None or not isinstance(node, ast.Call):
        return None
    returned = [each.value for each in called.nodes if isinstance(each, ast.Return)]
    for name, given in called.given(node).items() if len(returned) in (1, 2) else ():
        left = [value.value for value in returned if isinstance(value, ast.Subscript) and _is_an_end(value.slice, name)]
        others = [value for value in returned if not isinstance(value, ast.Subscript)]
        if any(dotted(one) == name for one in left) and all(value and dotted(value) == name for value in others):
            return given
    return None


def _is_joined(value: ast.expr) -> bool:
    """Whether a sequence is made of several: `prompt + response`, `[*prompt, *response]`."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return not any(
            isinstance(part, ast.Constant) and isinstance(part.value, int) for part in (value.left, value.right)
        )
    return isinstance(value, ast.List | ast.Tuple) and sum(isinstance(one, ast.Starred) for one in value.elts) > 1


def _is_cut_itself(target: ast.expr, value: ast.expr) -> bool:
    """Whether a name is assigned a piece of itself."""
    parts = (part for part in ast.walk(value) if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Slice))
    return any(dotted(part.value) == dotted(target) for part in parts)


def _is_read_again(whole: ast.Name, nodes: list[ast.AST], cut: ast.stmt) -> bool:
    """Whether the whole sequence is still used behind, so that a length may be of it."""
    return any(
        isinstance(node, ast.Name) and node.id == whole.id and node is not whole and node.lineno > (cut.end_lineno or 0)
        for node in nodes
    )


def _is_refused(name: str, nodes: list[ast.AST], cut: ast.stmt) -> bool:
    """Whether what is too long by that part is left out in front, so that nothing is cut."""
    branches = (node for node in nodes if isinstance(node, ast.If) and node.lineno < cut.lineno)
    return any(
        isinstance(branch.body[-1], ast.Raise | ast.Return | ast.Continue)
        and any(_length_of(part, {name}) for part in ast.walk(branch.test) if isinstance(part, ast.expr))
        for branch in branches
    )


def _is_an_end(piece: ast.expr, name: str) -> bool:
    if not isinstance(piece, ast.Slice) or piece.upper is not None or piece.step is not None:
        return False
    lower = piece.lower
    negative = isinstance(lower, ast.UnaryOp) and isinstance(lower.op, ast.USub)
    return negative or (isinstance(lower, ast.BinOp) and ast.unparse(lower).startswith(f"len({name}) - "))


def _lengths(nodes: list[ast.AST], cut: _Cut) -> Iterator[tuple[ast.expr, str]]:
    """The lengths behind a cut of the parts that are longer since, each with the part's name."""
    lines = {id(value): value.lineno for _, value in assignments_in(nodes)}
    behind = cut.node.end_lineno or cut.node.lineno
    beside = set(map(id, ast.walk(cut.around))) - set(map(id, ast.walk(cut.node))) if cut.around is not None else set()
    held: dict[str, str] = {}
    for target, value in assignments_in(nodes):
        if (
            isinstance(target, ast.Name)
            and lines[id(value)] < cut.node.lineno
            and (part := _length_of(value, cut.made))
        ):
            held[target.id] = part
    again = {dotted(target) for target, value in assignments_in(nodes) if lines[id(value)] > behind}
    for node in nodes:
        if not isinstance(node, ast.expr) or (node.lineno <= behind and id(node) not in beside):
            continue
        if (part := _length_of(node, cut.made)) and part not in again:
            yield node, part
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in held and node.id not in again:
            yield node, held[node.id]


def _length_of(node: ast.expr, made: set[str]) -> str:
    """The name whose length an expression is; empty: none of these."""
    if isinstance(node, ast.Call) and dotted(node.func) == "len" and len(node.args) == 1:
        return name if (name := dotted(node.args[0])) in made else ""
    return ""


def _is_used(node: ast.AST, parents: dict[int, ast.AST], ends: set[str]) -> bool:
    """Whether a number is stored, given on or reckoned with, as it is; not for what is cut in front as well."""
    before = node
    for around in outwards(node, parents):
        if isinstance(around, ast.BinOp) and isinstance(around.op, ast.Sub):
            return False
        if isinstance(around, ast.JoinedStr):
            return False
        if isinstance(around, ast.Call) and dotted(around.func) == "min" and _has_a_difference(around):
            return False
        if isinstance(around, ast.If | ast.IfExp | ast.While) and before is around.test:
            return False
        if isinstance(around, ast.Subscript) and before is around.value and _is_an_end(around.slice, ""):
            return False
        if isinstance(around, ast.Assign) and any(dotted(target) in ends - {""} for target in around.targets):
            return False
        if isinstance(around, ast.stmt):
            return isinstance(around, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr | ast.For)
        before = around
    return False


def _has_a_difference(call: ast.Call) -> bool:
    return any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) for part in ast.walk(call))


def _finding(place: Place, node: ast.expr, part: str, cut: _Cut) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.name}() cuts `{cut.name}` in front in line {cut.node.lineno}, and takes the length of `{part}` as "
            "if it were whole; allowed: what is left of it"
        ),
        culprit=place.file.at(node, place.name),
        fix="subtract what was cut, and no more than there was; or cut the part before the sequence is made",
    )
