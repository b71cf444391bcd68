"""Parameters that cannot train, as far as the source shows: layers in a plain list or dict, which `parameters()`
does not find; a layer that the class builds and no line ever uses; a layer put into a model after an optimizer
took its parameters; a leaf that is lost because `.to()`, `.cuda()` or arithmetic follows `requires_grad=True`
or `nn.Parameter(...)` in one expression.

```python
self.layers = [nn.Linear(8, 8) for _ in range(3)]                   # bad
self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))      # good
```
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.scan.frame import Report
from gradgate.scan.modules import Class, Module
from gradgate.scan.nodes import walk
from gradgate.scan.operations import FACTORIES, table
from gradgate.scan.rules.reachable import reachable
from gradgate.scan.rules.text import Text
from gradgate.scan.values import Line

CODE, NAME = "GG201", "dead-parameter"
TEXTS = {
    "plain": Text(
        "self.{name} is a plain {container} of layers: parameters() does not see them",
        "no optimizer trains them, `.to()` does not move them and state_dict() does not save them",
        "use nn.ModuleList or nn.ModuleDict",
    ),
    "unused": Text(
        "the layer self.{name} is built and never used",
        "its parameters get no gradient; under DDP this is an error of unused parameters",
        "use it in forward, or remove it",
        "warning",
    ),
    "replaced": Text(
        "`{module}.{layer}` is replaced after an optimizer took the parameters of `{module}`",
        "the optimizer goes on updating the layer that was thrown away; the new one never trains",
        "build the optimizer last",
    ),
    "leaf-lost": Text(
        "{op} follows {how}: what is kept is no leaf",
        "its .grad stays None and no optimizer can train it",
        "convert first, then make it a leaf: `tensor.to(...).requires_grad_()`, `nn.Parameter(tensor.to(...))`",
    ),
}
_TRAINED = frozenset(
    {"Linear", "Conv1d", "Conv2d", "Conv3d", "Embedding", "LSTM", "GRU", "Bilinear", "ConvTranspose2d", "LazyLinear"}
)
_ALL = {f"torch.nn.{name}" for name in _TRAINED}


def look(module: Module) -> Iterator[Report]:
    """Layers in plain containers, layers never used, leaves lost."""
    for owner in module.classes.values():
        if owner.is_a("torch.nn.Module", "nn.Module") or owner.is_layer:
            yield from _plain(module, owner)
            yield from _unused(module, owner)
    if "Parameter" not in module.attributes and "requires_grad" not in module.keywords:
        return
    for function in module.scopes:
        for node in walk(function.node):
            if isinstance(node, ast.Assign) and _is_only_input(node, function.calls):
                continue
            if isinstance(node, ast.Return | ast.Assign | ast.AnnAssign) and node.value is not None:
                yield from _lost(module, function.name, node.value)


def _is_only_input(node: ast.Assign, mentioned: set[str]) -> bool:
    """Whether a leaf is a local of a function that neither reads a gradient nor has an optimizer: one may be lost."""
    trained = any(name in ("grad", "leaves", "optim", "SGD", "parameters") or "Adam" in name for name in mentioned)
    return isinstance(node.targets[0], ast.Name) and not trained and "backward" in mentioned


def _plain(module: Module, owner: Class) -> Iterator[Report]:
    first = owner.methods.get("__init__")
    if first is None:
        return
    named = {part.attr for part in walk(first.node) if isinstance(part, ast.Attribute)}
    for node in walk(first.node):
        if not isinstance(node, ast.Assign) or not _is_self(node.targets[0]):
            continue
        layers = _layers_in(module, node.value)
        if (
            layers
            and not named & {"add_module", "register_module", "setattr"}
            and not _wrapped(module, first.node, node.targets[0])
        ):
            name = node.targets[0].attr  # type: ignore[attr-defined]
            kind = "dict" if isinstance(node.value, ast.Dict | ast.DictComp) else "list"
            line = Line(module.path, node.lineno, node.col_offset, "__init__")
            yield Report(CODE, "missing_grad", line, None, "plain", (("name", name), ("container", kind)))


def _wrapped(module: Module, init: ast.AST, target: ast.expr) -> bool:
    """Whether the container is handed on, as in `nn.Sequential(*self.layers)`."""
    name = target.attr  # type: ignore[attr-defined]
    return any(
        isinstance(node, ast.Call)
        and any(isinstance(part, ast.Attribute) and part.attr == name for given in node.args for part in walk(given))
        for node in walk(init)
    )


def _is_self(target: ast.expr) -> bool:
    return isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"


def _layers_in(module: Module, node: ast.expr) -> bool:
    items: list[ast.expr] = []
    if isinstance(node, ast.List | ast.Tuple):
        items = list(node.elts)
    elif isinstance(node, ast.ListComp):
        items = [node.elt]
    elif isinstance(node, ast.Dict):
        items = list(node.values)
    elif isinstance(node, ast.DictComp):
        items = [node.value]
    return any(isinstance(item, ast.Call) and module.dotted(item.func) in _ALL for item in items)


def _unused(module: Module, owner: Class) -> Iterator[Report]:
    first = owner.methods.get("__init__")
    if (
        first is None
        or owner.method("forward") is None
        or _SWEEPING & set(module.attributes)
        or not _is_plain(module, owner)
    ):
        return
    for node in walk(first.node):
        if not isinstance(node, ast.Assign) or not _is_self(node.targets[0]) or not isinstance(node.value, ast.Call):
            continue
        name = node.targets[0].attr  # type: ignore[attr-defined]
        if module.dotted(node.value.func) in _ALL and name not in module.strings and not _is_read(module, owner, name):
            line = Line(module.path, node.lineno, node.col_offset, "__init__")
            yield Report(CODE, "missing_grad", line, None, "unused", (("name", name),))


_SWEEPING = frozenset({"named_children", "_modules", "children", "named_modules", "modules", "__dict__"})


def _is_plain(module: Module, owner: Class) -> bool:
    """Whether all its bases are known, and it is more than a base for others."""
    bases = {base for entry in owner.lineage() for base in entry.bases}
    if any(base not in module.classes and base not in ("torch.nn.Module", "nn.Module") for base in bases):
        return False
    derived = any(owner.name in other.bases for other in module.classes.values())
    return not derived or owner.name in set().union(*(function.calls for function in module.scopes))


def _is_read(module: Module, owner: Class, name: str) -> bool:
    """Whether anything reads the attribute: this class, on a path that its constants allow, or code outside of classes.

    Another class of the file that reads an attribute of this name reads its own, unless it is a base or derived.
    """
    for function in module.scopes:
        mine = function.owner in owner.lineage()
        if (
            function.owner is not None
            and not mine
            and owner not in function.owner.lineage()
            and name in _built_by(function.owner)
        ):
            continue
        if function.owner is not None and owner in function.owner.lineage() and not mine:
            continue
        if name in function.calls and _reads(function.node, owner if mine else None, name):
            return True
    return False


def _built_by(owner: Class) -> set[str]:
    return set().union(*(entry.written for entry in owner.lineage()))


def _reads(node: ast.AST, owner: Class | None, name: str) -> bool:
    inspected: set[int] = set()  # `layer.weight.grad` asks about the layer, and does not use it
    for part in reachable(node, owner):
        if isinstance(part, ast.Attribute):
            if part.attr == "grad" or id(part) in inspected:
                inspected.add(id(part.value))
            elif part.attr == name and isinstance(part.ctx, ast.Load):
                return True
    return False


def _lost(module: Module, function: str, node: ast.expr) -> Iterator[Report]:
    """`factory(requires_grad=True).to(...)`, `nn.Parameter(...).cuda()`."""
    used = ""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        dotted = module.dotted(node.func)
        if dotted:
            how = _makes_leaf(node, dotted)
            if how and used:
                line = Line(module.path, node.lineno, node.col_offset, function)
                yield Report(CODE, "missing_grad", line, None, "leaf-lost", (("op", f".{used}()"), ("how", how)))
            return
        name = node.func.attr
        if name in ("detach", "requires_grad_", "clone", "view", "sum", "mean", "backward") or (
            name not in table().operations and name not in _MOVES
        ):
            return
        used = name
        node = node.func.value


_MOVES = frozenset({"to", "cuda", "cpu", "float", "half", "double", "bfloat16", "type"})


def _makes_leaf(node: ast.Call, dotted: str) -> str:
    if dotted == "torch.nn.Parameter":
        return "nn.Parameter(...)"
    head, _, name = dotted.rpartition(".")
    if head == "torch" and name in FACTORIES:
        for keyword in node.keywords:
            if (
                keyword.arg == "requires_grad"
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value is True
            ):
                return "requires_grad=True"
    return ""
