"""A weight is read through `.data` or `detach()` where a forward pass uses it: this use gives it no gradient.

## What it detects

Logits of a tied embedding whose weight is detached (`F.linear(h, self.embed.weight.detach())`), a head that shares
another one's weight through `.data`, a product with `.weight.data` that was taken for a copy.

## Why it matters

The weight still gets a gradient, by its other uses: nothing is frozen, nothing fails, and a loss trains a part of the
model that the paper says it trains less than it should, or not at all.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. In functions that compute
(not under `no_grad`, not named after making, copying, averaging, logging or evaluating), an argument of `linear`,
`embedding`, `matmul`, `mm`, `bmm`, `einsum`, `conv1d` and `addmm`, or a side of `@`, that is `<something>.weight` (or
`.bias`, `.kernel`) followed by `.data` or `.detach()`; so too an argument of a function of the trainer's, or of the
`forward` of one of its modules, that is given to one of these there. Statistic: such uses; allowed: 0.

A finding is a warning: a stop of the gradient may be meant, and then the paper says so.

False-alarm rate: not measured beyond the trainers and packages that the catalogue was tried on.

## Example

Bad:

```python
return F.linear(hidden, self.embed.weight.data)
```

Good:

```python
return F.linear(hidden, self.embed.weight)
```

## How to fix

Use the parameter itself.

## Known limits

A weight that is detached into a variable first is not followed.

## Sources

PyTorch, Autograd mechanics; faults of two trainers of the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.objects_called import object_called
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG217", "weight-read-without-gradient"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PRODUCTS = ("linear", "embedding", "matmul", "mm", "bmm", "einsum", "conv1d", "addmm")
WEIGHT = re.compile(r"\.(weight|bias|kernel)$")
OTHERWISE = re.compile(
    r"init|reset|copy|clone|tie|load|save|export|merge|ema|average|sync|update|log(?!it)|report|eval|valid|infer|generate|sample"
    r"|decode|predict|score|backward|prune|quant|norm|stat|test|lora",
    re.IGNORECASE,
)
FIX = "use the parameter itself; where the stop is meant, say so"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for products with detached weights."""
    return read_place_by_place(subject, lambda file: file.has(".data", ".detach()"), _of_place, "uses")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    if OTHERWISE.search(place.name) or _is_without_gradient(place):
        return
    for node in place.nodes:
        sides: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            sides = [node.left, node.right]
        elif isinstance(node, ast.Call):
            sides = [*given_by(node)] if called_name(node) in PRODUCTS else [*_multiplied_by(node, place, own)]
        for side in sides:
            if (name := _detached(side)) and not _in_no_grad(node, place):
                yield _finding(place, side, name)


def _multiplied_by(call: ast.Call, place: Place, own: Places) -> Iterator[ast.expr]:
    """What a call gives a function of the trainer's, or the `forward` of one of its modules, that multiplies by it."""
    if not any(map(_detached, given_by(call))):
        return
    made = own.called(call, place) or object_called(call, place, own)
    if made is None or OTHERWISE.search(made.name):
        return
    for name, value in made.given(call).items():
        products = (node for node in made.nodes if isinstance(node, ast.Call) and called_name(node) in PRODUCTS)
        if any(isinstance(each, ast.Name) and each.id == name for node in products for each in given_by(node)):
            yield value


def _detached(side: ast.expr) -> str:
    """The weight that is read without a gradient; empty: none."""
    if isinstance(side, ast.Attribute) and side.attr in ("T", "mT"):
        side = side.value
    if isinstance(side, ast.Call) and isinstance(side.func, ast.Attribute) and side.func.attr in ("t", "transpose"):
        side = side.func.value
    inner: ast.expr | None = None
    if isinstance(side, ast.Attribute) and side.attr == "data":
        inner = side.value
    elif isinstance(side, ast.Call) and isinstance(side.func, ast.Attribute) and side.func.attr == "detach":
        inner = side.func.value
    name = dotted(inner) if inner is not None else ""
    return name if WEIGHT.search(f".{name}") else ""


def _is_without_gradient(place: Place) -> bool:
    return any(
        "no_grad" in ast.unparse(each) or "inference" in ast.unparse(each) for each in place.function.decorator_list
    )


def _in_no_grad(node: ast.AST, place: Place) -> bool:
    blocks = (each for each in place.nodes if isinstance(each, ast.With))
    return any(
        any(word in ast.unparse(item) for item in block.items for word in ("no_grad", "inference_mode"))
        and any(part is node for part in ast.walk(block))
        for block in blocks
    )


def _finding(place: Place, side: ast.expr, name: str) -> Finding:
    return Finding(
        CODE,
        NAME,
        f"{place.name}() reads `{ast.unparse(side)}`: this use gives `{name}` no gradient; allowed: it alone",
        severity="warning",
        culprit=place.file.at(side, place.name),
        fix=FIX,
    )
