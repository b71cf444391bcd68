"""Weights that are to be tied are copied, and train apart.

## What it detects

A switch that ties an embedding and the layer that makes logits, and that copies the values of one into the other,
instead of letting both have the same parameter.

## Why it matters

Both start alike, so a look at a fresh model shows nothing. From the first step on each has a gradient, and a state of
the optimizer, of its own: the model has more parameters than its configuration says, and embeddings miss half of what
they would learn.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. In a branch whose condition,
or a function whose name, speaks of tying (`tie_embeddings`, `weight_tying`, `share_embeddings`), findings are a
`copy_()` into a `weight`, an assignment to `weight.data`, a new `Parameter` of another's weight, and a
`load_state_dict()` of another module's state, unless a `weight` is assigned another's `weight` there as well.
Statistic: such copies; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if config.tie_embeddings:
    self.unembed.weight.data.copy_(self.embed.weight.data)
```

Good:

```python
if config.tie_embeddings:
    self.unembed.weight = self.embed.weight
```

## How to fix

Assign the parameter itself, behind everything that initialises it or replaces it.

## Known limits

Weights that are tied, and untied later by a cast, a copy of the model or a checkpoint, are not looked at.

## Sources

Press and Wolf 2017, "Using the Output Embedding to Improve Language Models", arXiv:1608.05859.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.trainer import File, dotted, nodes_in, read_file_by_file
from gradgate.checks.source.values import OTHERS, assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG438", "tied-weights-apart"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
TIES = re.compile(r"(^|[_.])(tie|tied|ties|tying)(_|$)|share_?(input_?output|emb)", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for copies where weights are to be tied."""
    return read_file_by_file(subject, _found, "copies")


def _found(file: File) -> Iterator[Finding]:
    for node in file.nodes if file.has("tie", "tying", "share", "Tie") else ():
        if isinstance(node, ast.If) and _speaks_of_it(ast.walk(node.test)):
            is_untied = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
            yield from _copies(file, list(nodes_in(node.orelse if is_untied else node.body, *OTHERS)))
        elif isinstance(node, ast.FunctionDef) and TIES.search(node.name):
            yield from _copies(file, list(nodes_in(node.body, *OTHERS, ast.If)))


def _speaks_of_it(nodes: Iterable[ast.AST]) -> bool:
    return any(isinstance(node, ast.Name | ast.Attribute) and TIES.search(dotted(node)) for node in nodes)


def _copies(file: File, nodes: list[ast.AST]) -> Iterator[Finding]:
    given = list(assignments_in(nodes))
    if any(dotted(target).endswith(".weight") and dotted(value).endswith(".weight") for target, value in given):
        return
    for target, value in given:
        if dotted(target).endswith("weight.data") and _is_weight(value):
            yield _finding(file, target)
        elif _is_weight(target) and isinstance(value, ast.Call) and dotted(value.func).endswith("Parameter"):
            parts = (part for argument in value.args for part in ast.walk(argument))
            yield from [_finding(file, target)] if any(map(_is_weight, parts)) else []
    for node in nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        copies = node.func.attr == "copy_" and _is_weight(node.func.value) and _is_weight(node.args[0])
        loads = node.func.attr == "load_state_dict" and ast.unparse(node.args[0]).endswith(".state_dict()")
        if copies or loads:
            yield _finding(file, node)


def _is_weight(node: ast.AST) -> bool:
    """Whether an expression is a weight, or its values."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("detach", "clone") and _is_weight(node.func.value)
    text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
    return text.removesuffix(".data").endswith(".weight")


def _finding(file: File, node: ast.AST) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message="weights that are to be tied are copied here, and train apart from then on; allowed: one parameter",
        culprit=file.at(node),
        fix="assign the parameter itself: `self.unembed.weight = self.embed.weight`",
    )
