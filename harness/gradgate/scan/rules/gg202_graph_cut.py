"""A value that is backpropagated, or returned beside values that carry gradient, depends on layers only through a
line at which the history ends: `torch.tensor(t)`, `.item()`, `float(t)`, a comparison, argmax, rounding without
a straight-through term, `.detach().requires_grad_()`, `autograd.grad` without `create_graph`, reentrant
checkpointing of frozen inputs. A plain `.detach()` or `no_grad` is a decision, and is left alone.
`torch.set_grad_enabled(False)` that one way out of its function does not undo counts too.

```python
total = main + weight * torch.tensor(auxiliary).sum()     # bad: values without gradient
total = main + weight * torch.stack(auxiliary).sum()      # good
```
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.scan.frame import Report
from gradgate.scan.modules import Function, Module
from gradgate.scan.nodes import walk
from gradgate.scan.rules.text import Text
from gradgate.scan.values import Line

CODE, NAME = "GG202", "graph-cut"
_WHY = "the value reaches the result, its gradient does not come back"


def _cut(message: str, fix: str) -> Text:
    return Text(message + "; no other path brings gradient to what it was computed from", _WHY, fix)


_STE = "keep a soft path: `hard + soft - soft.detach()`, or use the soft value"
TEXTS = (
    {
        "tensor": _cut(
            "torch.tensor() copies values and drops their history", "torch.stack(...), or use the tensors themselves"
        ),
        "tensor-requires-grad": Text(
            "torch.tensor(..., requires_grad=True) of a tensor starts a new graph: backward runs, and stops here",
            _WHY,
            "use the tensor itself; for a hard decision keep a soft path",
        ),
        "item": _cut(".item() makes a Python number", "use the tensor itself"),
        "tolist": _cut(".tolist() makes Python numbers", "use the tensor itself"),
        "float": _cut("float() makes a Python number", "use the tensor itself"),
        "int": _cut("int() makes a Python number", "use the tensor itself"),
        "comparison": _cut("a comparison has no gradient", _STE),
        "detach": _cut(
            ".detach().requires_grad_() starts a new graph here", "to read the gradient, use `retain_grad()`"
        ),
        "create_graph": Text(
            "torch.autograd.grad without create_graph=True: its result enters a loss and brings no gradient",
            _WHY,
            "pass create_graph=True",
        ),
        "reentrant": Text(
            "reentrant checkpointing, and no input requires grad: the block gets no gradient",
            "the reentrant kind connects the block through its inputs alone; PyTorch only warns",
            "pass use_reentrant=False",
        ),
        "left-off": Text(
            "torch.set_grad_enabled(False) is not undone on every way out of {name}()",
            "whoever trains afterwards gets no gradients at all",
            "use `with torch.no_grad():`",
        ),
    }
    | {
        name: _cut(f"{name}() has a slope of zero", _STE)
        for name in ("round", "floor", "ceil", "sign", "trunc", "heaviside", "sgn", "fix")
    }
    | {
        name: _cut(f"{name}() has no gradient", _STE)
        for name in (
            "argmax",
            "argmin",
            "argsort",
            "multinomial",
            "bernoulli",
            "bucketize",
            "searchsorted",
            "one_hot",
            "bool",
            "__float__",
        )
    }
)


def look(module: Module) -> Iterator[Report]:
    """Gradient switched off for good by an early way out."""
    if "set_grad_enabled" not in module.attributes:
        return
    for function in module.every:
        if function.sets_grad and isinstance(function.node, ast.FunctionDef):
            yield from _left_off(module, function)


def _left_off(module: Module, function: Function) -> Iterator[Report]:
    switches = [
        (node, node.args[0].value)
        for node in walk(function.node)
        if isinstance(node, ast.Call)
        and module.dotted(node.func).endswith("torch.set_grad_enabled")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]
    managed = {
        id(item.context_expr) for node in walk(function.node) if isinstance(node, ast.With) for item in node.items
    }
    off = [node for node, value in switches if value is False and id(node) not in managed]
    on = [node for node, value in switches if value is True and id(node) not in managed]
    if not off or not on or any(isinstance(node, ast.Try) and node.finalbody for node in walk(function.node)):
        return
    first, last = min(node.lineno for node in off), max(node.lineno for node in on)
    for node in walk(function.node):
        if (
            isinstance(node, ast.Return)
            and first < node.lineno < last
            and not any(first < other.lineno <= node.lineno for other in on)
        ):
            line = Line(module.path, off[0].lineno, off[0].col_offset, function.name)
            yield Report(
                CODE,
                "graph_cut",
                line,
                Line(module.path, node.lineno, node.col_offset, function.name),
                "left-off",
                (("name", function.name),),
            )
            return
