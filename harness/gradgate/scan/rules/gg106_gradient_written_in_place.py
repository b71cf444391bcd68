"""A custom `backward`, or a hook, writes the gradient that it was given: `grad_output *= scale`, `grad.mul_()`,
`grad[mask] = 0`. The tensor is shared with other branches of the graph.

```python
def backward(ctx, grad_output):
    grad_output *= ctx.scale               # bad: a sibling branch gets it too
    return grad_output

def backward(ctx, grad_output):
    return grad_output * ctx.scale         # good
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

CODE, NAME = "GG106", "gradient-written-in-place"
_WHY = "autograd may hand the same tensor to another branch, whose gradient is then wrong too, without an error"
TEXTS = {
    "backward": Text(
        "backward() writes the gradient `{name}` that it was lent, by {op}",
        _WHY,
        "return a new tensor: the out-of-place form",
    ),
    "hook": Text("a gradient hook writes `{name}` in place, by {op}", _WHY, "return a new tensor from the hook"),
}


def look(module: Module) -> Iterator[Report]:
    """Gradients written by custom backwards and by hooks."""
    for owner in module.classes.values():
        if owner.is_function and "backward" in owner.methods:
            function = owner.methods["backward"]
            yield from _writes(module, function, set(function.parameters[1:]), "backward")
    if "register_hook" not in module.attributes:
        return
    for function in module.scopes:
        for name, body in _hooks(module, function):
            yield from _writes(module, body, {name}, "hook")


def _writes(module: Module, function: Function, gradients: set[str], what: str) -> Iterator[Report]:
    fresh: set[str] = set()
    for node in _in_order(function.node):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id in gradients and not _same(node.value, gradients - fresh):
                    fresh.add(target.id)
                elif isinstance(target, ast.Name) and _same(node.value, gradients - fresh):
                    gradients = gradients | {target.id}
        found = _written(node)
        if found is not None and found[0] in gradients - fresh and isinstance(node, ast.expr | ast.stmt):
            line = Line(module.path, node.lineno, node.col_offset, function.name)
            yield Report(CODE, "custom_function", line, None, what, (("name", found[0]), ("op", found[1])))


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        yield from _in_order(child)


def _same(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is one of the names, or a view of it."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("view", "view_as", "squeeze")
    ):
        return _same(node.func.value, names)
    return isinstance(node, ast.Name) and node.id in names


def _written(node: ast.AST) -> tuple[str, str] | None:
    if isinstance(node, ast.AugAssign):
        target = node.target.value if isinstance(node.target, ast.Subscript) else node.target
        return (target.id, "augmented assignment") if isinstance(target, ast.Name) else None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
        return node.value.id, "index assignment"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        name = node.func.attr
        if (
            name.endswith("_")
            and not name.startswith("_")
            and name not in ("requires_grad_", "retain_grad_", "detach_")
        ):
            return node.func.value.id, f"{name}()"
    return None


def _hooks(module: Module, function: Function) -> Iterator[tuple[str, Function]]:
    """Functions that are registered as hooks on a tensor's gradient, with their parameter's name."""
    for node in walk(function.node):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "register_hook"
            and node.args
        ):
            hook = node.args[0]
            if isinstance(hook, ast.Lambda) and hook.args.args:
                yield hook.args.args[0].arg, Function(hook, function.name, module)
            elif isinstance(hook, ast.Name):
                body = module.functions.get(hook.id) or next(
                    (inner for inner in module.every if inner.name == hook.id and inner.owner is None), None
                )
                if body is not None and body.parameters:
                    yield body.parameters[0], body
