"""The last token of a row is found by the row's length, in a trainer that may pad on the left.

## What it detects

`mask.sum(-1) - 1` or `lengths - 1` as the place of a row's last token, where a setting says on which side rows are
padded.

## Why it matters

With padding on the left the last token stands in the last column, whatever the length. A reward lands on padding or
amid the prompt, a value is read there, and returns are those of another sequence. With padding on the right, as in
most runs, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A trainer may pad on the
left where an argument, a field, a key or an assignment is named after a side of padding, and a text `"left"` stands in
one of the files. Findings are a sum of a mask, or a length, less one, running sums of them as well, by which something
is indexed, gathered or scattered, in a function that does not read a side; not the columns of a slice, nor the last;
nor where the function itself puts rows into the first columns, or its class says that they are padded on the right. Of
a mask that is taken from the prompts' width on, what is left is padded on the right.

Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
last = mask.sum(-1) - 1
rewards.scatter_(1, last[:, None], scores[:, None])
```

Good:

```python
positions = torch.arange(mask.shape[1], device=mask.device)
last = (positions * mask).argmax(-1)                         # wherever the padding is
```

## How to fix

Take the largest position at which the mask is set.

## Known limits

Indices that are computed in one function and used in another are not seen, nor masks that are padded on the left
without a setting. What a padded row makes of the real step is GG406's, which runs it.

## Sources

The `padding_side` of transformers' tokenizers, and its classifiers' search for the last token that is none of padding.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from gradgate.checks.source.left_padding import SIDE, may_pad_on_the_left
from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of, given_by
from gradgate.checks.source.values import Names, assignments_in, last_name, own_nodes, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG442", "last-by-length"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MASK = re.compile(r"mask|valid|real|present|member|attention", re.IGNORECASE)
LENGTHS = re.compile(r"(^|[._])(\w*_)?(lengths?|lens)$", re.IGNORECASE)
TAKES = ("gather", "scatter", "scatter_", "scatter_add", "scatter_add_", "index_select", "take_along_dim", "index_put_")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read how each row's last token is found."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(chain.from_iterable(map(_of_file, files))) if may_pad_on_the_left(files) else ()
    return Outcome(findings, {"places": len(findings)}, {"places": 0})


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("- 1"):
        return
    for function, owner in file.functions:
        nodes, names = own_nodes(function), Names(function)
        lasts = {id(node): node for node in _less_one(nodes) if _is_length(node.left, names, nodes)}
        if not lasts or any("left" in text or SIDE.search(text) for text in _texts(function, file)):
            continue
        if any(map(_pads_behind, nodes)) or (owner is not None and any(map(_says_right, ast.walk(owner)))):
            continue
        seen = set[int]()
        for of, index in _indices(nodes):
            if isinstance(names.held(index), ast.Compare):
                continue
            for part in names.parts(index, 3):
                if id(part) in lasts and id(part) not in seen and not _is_of(of, lasts[id(part)].left, nodes):
                    seen.add(id(part))
                    yield _finding(file, lasts[id(part)], function.name)


def _says_right(node: ast.AST) -> bool:
    """Whether a side is set to the right: `tokenizer.padding_side = "right"`."""
    if not isinstance(node, ast.Assign) or not SIDE.search(last_name(node.targets[0])):
        return False
    return any(isinstance(part, ast.Constant) and part.value == "right" for part in ast.walk(node.value))


def _is_of(of: ast.expr, length: ast.expr, nodes: Iterable[ast.AST]) -> bool:
    """Whether a length is that of the very list that is indexed."""
    counted = f"len({ast.unparse(of)})"
    return any(
        dotted(target) == dotted(length) and dotted(target) and ast.unparse(value) == counted
        for target, value in assignments_in(nodes)
    )


def _pads_behind(node: ast.AST) -> bool:
    """Whether a node puts a row into the first columns of a wider one, or pads rows as torch does."""
    if isinstance(node, ast.Call):
        return dotted(node.func).endswith("pad_sequence")
    if not (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Tuple)):
        return False
    ends = (part.upper for part in node.slice.elts if isinstance(part, ast.Slice) and part.lower is None)
    return any(end is not None and re.search(r"len\(|length", ast.unparse(end)) for end in ends)


def _texts(function: Function, file: File) -> Iterable[str]:
    return file.lines[function.lineno - 1 : function.end_lineno]


def _less_one(nodes: Iterable[ast.AST]) -> Iterator[ast.BinOp]:
    """The nodes that are something less one."""
    for node in nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and ast.unparse(node.right) == "1":
            yield node


def _is_length(node: ast.expr, names: Names, nodes: Iterable[ast.AST]) -> bool:
    """Whether something is the length of rows, of what a function's nodes make of it."""
    parts = list(names.parts(node, 3))
    if any(map(_is_from_a_column_on, parts)):
        return False
    for part in parts:
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in ("sum", "cumsum"):
            summed = ast.unparse(part.func.value) + "".join(map(ast.unparse, part.args[:1]))
            if MASK.search(summed) or LENGTHS.search(ast.unparse(part.func.value)):
                return True
        if isinstance(part, ast.Name | ast.Attribute | ast.Subscript) and LENGTHS.search(last_name(part)):
            return dotted(part) not in _widths(nodes)
    return False


def _is_from_a_column_on(node: ast.AST) -> bool:
    """Whether something is all columns from one on that has a name: `mask[:, n_prompt:]`, `mask[-n_answer:]`."""
    if not isinstance(node, ast.Subscript):
        return False
    last = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
    if not isinstance(last, ast.Slice) or last.lower is None or last.upper is not None:
        return False
    return any(isinstance(part, ast.Name | ast.Attribute) for part in ast.walk(last.lower))


def _widths(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that hold how wide something is: the last column's number is one less."""
    return {
        dotted(place)
        for node in nodes
        if isinstance(node, ast.Assign) and re.search(r"\.shape|\.size\(", ast.unparse(node.value))
        for target in node.targets
        for place in places_of(target)
    }


def _indices(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What is indexed, gathered or scattered, and by what."""
    for node in nodes:
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice | ast.Constant):
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            yield from ((node.value, part) for part in parts if not isinstance(part, ast.Slice))
        elif isinstance(node, ast.Call) and called_name(node) in TAKES:
            yield from ((node.func, each) for each in given_by(node))


def _finding(file: File, node: ast.BinOp, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() takes `{ast.unparse(node)}` for the place of a row's last token, and rows may be padded on "
            "the left; allowed: the last place at which the mask is set"
        ),
        culprit=file.at(node, function),
        fix="take the largest position at which the mask is set",
    )
