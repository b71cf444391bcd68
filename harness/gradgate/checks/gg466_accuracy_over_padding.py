"""A share of right predictions counts positions that have no label.

## What it detects

`(logits.argmax(-1) == labels).float().mean()` where labels are -100 at padding and prompts, and
`hits.sum() / labels.numel()`: what has no label is never right, and counts.

## Why it matters

The accuracy is the smaller the more padding a batch has. It moves with the lengths of the rows and the size of the
batch, and a checkpoint that is chosen by it is chosen by its padding.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, where one of them has a
label that is ignored (-100, `ignore_index`). Findings are a mean over a comparison of labels, or targets, with
something that is called a prediction or comes from an `argmax`, and the sum of such a comparison that is divided by the
number of elements, `numel()`, of a tensor. Labels that are indexed by a mask, where the function or its caller does so,
are none.

Statistic: such means; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
accuracy = (logits.argmax(-1) == labels).float().mean()
```

Good:

```python
valid = labels != -100
accuracy = ((logits.argmax(-1) == labels) & valid).sum() / valid.sum().clamp(min=1)
```

## How to fix

Count hits and positions where there is a label.

## Known limits

Comparisons that are handed to another function, and counts that are added up over batches, are not followed.

## Sources

PyTorch, `torch.nn.functional.cross_entropy`, whose mean leaves out what is ignored; an accuracy has to do so by itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import chain

from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of
from gradgate.checks.source.values import Names, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG466", "accuracy-over-padding"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LABELS = re.compile(r"(^|_)(labels?|targets?|gold|tgt)(_[A-Z]+)?$")
PREDICTED = re.compile(r"(^|_)(preds?|predicted|predictions?|guess(es)?|greedy)(_[A-Z]+)?$")
IGNORED = ("-100", "ignore_index", "IGNORE")
CASTS = ("float", "double", "to", "type", "half")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for shares of right predictions."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    ignores = any(file.has(*IGNORED) for file in files)
    findings = tuple(chain.from_iterable(map(_of_file, files))) if ignores else ()
    return Outcome(findings, {"means": len(findings)}, {"means": 0})


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("==", ".eq("):
        return
    masked = {called_name(call) for call in _calls(file.nodes) if any(map(_is_masked, call.args))}
    for function, _ in file.functions:
        if function.name in masked:
            continue
        names, nodes = Names(function), own_nodes(function)
        for node in nodes:
            over = _averaged(node)
            if isinstance(node, ast.expr) and over is not None and _compares(over, names):
                yield _finding(file, node, function.name)


def _calls(nodes: Sequence[ast.AST]) -> Iterator[ast.Call]:
    return (node for node in nodes if isinstance(node, ast.Call))


def _averaged(node: ast.AST) -> ast.expr | None:
    """What a mean, or a sum by a number of elements, goes over."""
    if isinstance(node, ast.Call):
        return _reduced(node, "mean")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        counts = any(getattr(call.func, "attr", "") == "numel" for call in _calls(list(ast.walk(node.right))))
        return _reduced(_bare(node.left), "sum") if counts else None
    return None


def _reduced(node: ast.expr, by: str) -> ast.expr | None:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != by:
        return None
    of = node.args[0] if dotted(node.func.value) == "torch" and node.args else node.func.value
    return _bare(of)


def _bare(node: ast.expr) -> ast.expr:
    """Without casts and `.item()`."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in (*CASTS, "item"):
        node = node.func.value
    return node


def _compares(node: ast.expr, names: Names) -> bool:
    """Whether something is a comparison of predictions with labels without a mask, or what a mask leaves of one."""
    node = _bare(names.held(node))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.Mult):
        return _compares(node.left, names) or _compares(node.right, names)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
        sides = [node.left, node.comparators[0]]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "eq" and node.args:
        sides = [node.func.value, node.args[0]]
    else:
        return False
    return any(
        _is_of_labels(labels, names) and _is_predicted(predicted, names) for labels, predicted in (sides, sides[::-1])
    )


def _is_of_labels(node: ast.expr, names: Names) -> bool:
    while isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant) and not _is_masked(node):
        node = node.value  # one head, or the positions of a slice
    return bool(LABELS.search(last_name(node))) and not _is_masked(names.held(node))


def _is_masked(node: ast.expr) -> bool:
    """Whether something is indexed by a name or a comparison: no slice, number or key."""
    if not isinstance(node, ast.Subscript):
        return isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "masked_select"
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    plain = (ast.Slice, ast.Constant, ast.UnaryOp)
    return not all(isinstance(part, plain) or dotted(part) in ("k", "head", "h", "i") for part in parts)


def _is_predicted(node: ast.expr, names: Names) -> bool:
    held = names.held(node)
    return bool(PREDICTED.search(last_name(node))) or "argmax" in ast.unparse(held)


def _finding(file: File, node: ast.expr, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() counts what has no label, in `{ast.unparse(node)}`; allowed: positions with a label",
        culprit=file.at(node, function),
        fix="count hits and positions where there is a label: `valid = labels != -100`",
    )
