"""The class of the loader that a function which trains makes itself, read from its source."""

from __future__ import annotations

import ast
import inspect
import sys
from typing import Any

from torch.utils.data import DataLoader

from gradgate.checks.source.trainer import calls_in, dotted
from gradgate.checks.source.values import assignments_in
from gradgate.core.origin import is_own_code

PASSING = ("enumerate", "tqdm", "islice", "iter", "cycle")  # what gives the batches of its first argument


def loader_class(module: str, alias: str, function: ast.FunctionDef, over: ast.expr) -> str | None:
    """What `begin` may be told, as the adapter names it; None: another class, or not the first instance of its class.

    Args:
        module: of the function.
        alias: what the adapter calls it.
        function: what is to make the loader.
        over: what its loop goes over.
    """
    nodes, name = list(ast.walk(function)), ast.unparse(over := passed(over))
    made = [passed(value) for target, value in assignments_in(nodes) if ast.unparse(target) == name] or [over]
    stores = [node for node in nodes if isinstance(getattr(node, "ctx", None), ast.Store) and ast.unparse(node) == name]
    if len(stores) > len(made) or name in [node.arg for node in nodes if isinstance(node, ast.arg)]:
        return None  # it is given, or something else comes in its place
    if isinstance(made[0], ast.Name) and made[0].id != name:
        return loader_class(module, alias, function, made[0])
    kinds = {_class_of(each, module) for each in made}
    if len(kinds) > 1 or (kind := kinds.pop()) is None:
        return None
    alike = [call for call in calls_in(function) if issubclass(_class_of(call, module) or object, kind)]
    first = min(alike, key=lambda call: (call.lineno, call.col_offset))
    if first not in made:
        return None
    return "torch.utils.data.DataLoader" if kind is DataLoader else f"{alias}.{dotted(first.func)}"


def passed(value: ast.expr) -> ast.expr:
    """What is iterated over, without `enumerate` and the like around it."""
    while isinstance(value, ast.Call) and dotted(value.func).rpartition(".")[2] in PASSING and value.args:
        value = value.args[0]
    return value


def _class_of(made: ast.expr, module: str) -> type[Any] | None:
    """The class, of the trainer's own or below torch's `DataLoader`, that a call makes something to iterate over of."""
    found: Any = sys.modules.get(module)
    for part in dotted(made.func).split(".") if isinstance(made, ast.Call) else ():
        found = getattr(found, part, None)
    if not inspect.isclass(found) or not (hasattr(found, "__iter__") or hasattr(found, "__next__")):
        return None
    file = getattr(sys.modules.get(found.__module__), "__file__", None) or "<built in>"
    return found if issubclass(found, DataLoader) or is_own_code(file) else None
