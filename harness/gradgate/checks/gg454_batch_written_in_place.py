"""A function writes into the labels, the mask or the tokens that it is given: the batch is another one afterwards.

## What it detects

`index = labels.clamp_(min=0)` in a function that is given `labels`: what was ignored is token 0 from there on.

## Why it matters

Whoever asks the batch next, the loss behind a reference's scores, counts padding and prompts as targets. No gradient is
wrong, so nothing raises; a batch that is used twice is another one the second time.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are calls of a
method whose name ends in `_`, and, in a function that gives something back, stores at an index and `&=`, `|=` and `*=`,
of an argument, or of an item or an attribute of one, that is called labels, targets, mask, valid, ids or tokens, or of
a name that holds it; where the function assigns that name nothing before and does not give it back; not where it is
what the function is named after (`mask_labels_`, `collate`).

Statistic: such writes; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def token_losses(logits, labels):
    index = labels.clamp_(min=0)
```

Good:

```python
    index = labels.clamp(min=0)
```

## How to fix

Take the operation that makes a new tensor, without the `_`.

## Known limits

Writes by an index, and into a batch's attributes, are not looked at. What a step writes into its batch is GG104's,
which runs it.

## Sources

PyTorch, "Tensor Views" and the naming of in-place operations: a name that ends in `_` changes the tensor itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source_values import assignments_in, last_name, own_nodes, places_of
from gradgate.checks.trainer_source import File, Function, dotted, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG454", "batch-written-in-place"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
OF_A_BATCH = re.compile(r"(^|_)(labels?|targets?|mask|valid|ids|tokens?)(_[A-Z]+)?$")
IN_PLACE = re.compile(r"[a-z]_$")
MAKES = re.compile(
    r"_$|collat|fill|pad_|_pad|corrupt|noise|mask_|_mask|shift|prepare|augment|preprocess", re.IGNORECASE
)
PLACES = re.compile(r"mask|valid|pad|ignore|keep|drop", re.IGNORECASE)
NO_WRITES = ("requires_grad_", "share_memory_", "pin_memory_")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for methods that write into what a function is given."""
    return read_file_by_file(subject, _of_file, "writes")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("_(", "] =", "&=", "|=", "*="):
        return
    for function, _ in file.functions:
        if MAKES.search(function.name):
            continue
        nodes = own_nodes(function)
        values = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
        returned = {dotted(place) for value in values for place in places_of(value)}
        given = _given(function, nodes)
        for node, written in _writes(nodes, bool(values)) if given else ():
            if (name := given.get(ast.unparse(written), "")) and not {ast.unparse(written), name} & returned:
                yield _finding(file, node, function.name, name)


def _writes(nodes: Sequence[ast.AST], gives: bool) -> Iterator[tuple[ast.expr | ast.stmt, ast.expr]]:
    """What writes in place, and where: of a function that gives something back also stores and `&=`."""
    asked = {  # what is no number: it is indexed, or has methods
        ast.unparse(node.value if isinstance(node, ast.Attribute | ast.Subscript) else node.operand)
        for node in nodes
        if isinstance(node, ast.Attribute | ast.Subscript)
        or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert))
    }
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and IN_PLACE.search(node.func.attr):
            if node.func.attr not in NO_WRITES:
                yield node, node.func.value
        elif isinstance(node, ast.Assign) and gives:
            for target in node.targets:
                if isinstance(target, ast.Subscript) and _is_of_places(target.slice):
                    yield node, target.value
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Mult):
            is_tensor = ast.unparse(node.target) in asked and not any(map(_is_of_numbers, ast.walk(node.value)))
            yield from [(node, node.target)] if is_tensor and gives else []


def _is_of_places(index: ast.expr) -> bool:
    """Whether an index takes places of a tensor: a range, several axes, a condition or a mask, and no key."""
    kinds = (ast.Slice, ast.Tuple, ast.Compare, ast.UnaryOp, ast.BinOp)
    return isinstance(index, kinds) or bool(PLACES.search(last_name(index)))


def _is_of_numbers(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) in ("len", "isinstance", "bool", "all", "any")


def _given(function: Function, nodes: Sequence[ast.AST]) -> dict[str, str]:
    """What a function is given that is called after a part of a batch, and other names for it.

    Arguments that it assigns nothing, items of arguments, and names that hold one of these alone.
    """
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    names = {each.arg for each in arguments} - {"self", "cls"}
    values: dict[str, list[ast.expr]] = {}
    for target, value in assignments_in(nodes):
        for place in places_of(target):
            values.setdefault(dotted(place), []).append(value)
    found = {name: name for name in names - set(values) if OF_A_BATCH.search(name)}
    for node in nodes:
        of_argument = isinstance(node, ast.Attribute | ast.Subscript) and dotted(node.value) in names - set(values)
        if of_argument and OF_A_BATCH.search(last_name(node)) and not isinstance(getattr(node, "ctx", None), ast.Store):
            found[ast.unparse(node)] = ast.unparse(node)
    stored = {ast.unparse(target) for target, _ in assignments_in(nodes)}
    found = {name: told for name, told in found.items() if name not in stored}
    for name, held in values.items():
        if len(held) == 1 and name and ast.unparse(held[0]) in found:
            found[name] = found[ast.unparse(held[0])]
    return found


def _finding(file: File, node: ast.expr | ast.stmt, function: str, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() writes into the `{name}` that it is given, by `{ast.unparse(node)}`; allowed: none",
        culprit=file.at(node, function),
        fix="take the operation without the `_`, or write into a clone",
    )
