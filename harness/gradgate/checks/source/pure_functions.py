"""Functions that return something new and change nothing: a trainer's own, and those of libraries by their names."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Sequence

from gradgate.checks.source.trainer import File, Function, called_name, dotted
from gradgate.checks.source.values import own_nodes

MAKE_NEW = (
    *("dataclasses.replace", "copy.deepcopy", "copy.copy", "deepcopy", "sorted", "random.sample", "torch.where"),
    *("torch.clamp", "torch.cat", "torch.stack", "np.random.permutation", "numpy.random.permutation"),
)
METHODS = ("model_copy", "permutation", "_replace", "masked_fill", "where")
BUILTINS = {
    *("len", "dict", "list", "tuple", "set", "sum", "min", "max", "sorted", "zip", "enumerate", "range", "isinstance"),
    *("int", "float", "str", "bool", "abs", "round", "getattr", "hasattr", "vars", "type", "any", "all", "reversed"),
}
PURE = {*BUILTINS, *MAKE_NEW, "dataclasses.asdict", "asdict", "replace", "dataclasses.fields", "fields", "math.ceil"}
OF_TEXTS = {"split", "partition", "rpartition", "rsplit", "strip", "lower", "upper", "join", "replace", "startswith",
            "endswith", "removeprefix", "removesuffix", "items", "keys", "values", "get", "copy", "model_dump",
            *METHODS}  # fmt: skip
FILLS = {"append", "extend", "update", "setdefault", "pop", "add", "sort", "insert", "reverse"}  # what is its own
ASKS = re.compile(r"check|assert|valid|verify|ensure|require|^_?get_|find")  # called for its error, too
ACTS = (
    ast.Global | ast.Nonlocal | ast.Yield | ast.YieldFrom | ast.Await | ast.With | ast.Raise | ast.Assert | ast.Delete
)


def makes_new(call: ast.Call, file: File) -> bool:
    """Whether a call is of a library's function that changes nothing of what it is given."""
    name = dotted(call.func)
    if any(word.arg in ("out", "inplace") for word in call.keywords):
        return False
    if name == "replace" and file.has("from dataclasses import"):
        return any(
            isinstance(node, ast.ImportFrom) and node.module == "dataclasses"
            and any((alias.asname or alias.name) == "replace" for alias in node.names)
            for node in file.nodes
        )  # fmt: skip
    return name in MAKE_NEW or (isinstance(call.func, ast.Attribute) and call.func.attr in METHODS)


def pure_functions(files: Iterable[File]) -> set[str]:
    """The names of those functions of a trainer that return a value on every path, and change nothing.

    Undecorated functions outside of classes, of one name alone, whose stores and methods are of what they made.
    """
    files = tuple(files)
    stems = {file.path.parent.name if file.path.stem == "__init__" else file.path.stem for file in files}
    found: dict[str, list[tuple[Function, bool]]] = {}
    for file in files:
        for function, owner in file.functions:
            found.setdefault(function.name, []).append((function, owner is None and not function.decorator_list))
    classes = {node.name for file in files for node in file.nodes if isinstance(node, ast.ClassDef)}
    imported = {
        alias.asname or alias.name
        for file in files
        for node in file.nodes
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").rpartition(".")[2] not in stems
        for alias in node.names
    }  # from libraries
    single = {
        name: same[0][0]
        for name, same in found.items()
        if len(same) == 1 and same[0][1] and name not in imported and not ASKS.search(name)
    }
    known: set[str] = set()
    for _ in range(3):
        known |= {name for name, function in single.items() if _is_pure(function, known, classes)}
    return known


def _is_pure(function: Function, known: set[str], classes: set[str]) -> bool:
    nodes = own_nodes(function)
    returns = [node for node in nodes if isinstance(node, ast.Return)]
    if not returns or any(node.value is None or isinstance(node.value, ast.Constant) for node in returns):
        return False
    if not _always_returns(function.body) or isinstance(function, ast.AsyncFunctionDef):
        return False
    made = _made(function, nodes)
    for node in nodes:
        if isinstance(node, ACTS | ast.Try | ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
            return False
        if (
            isinstance(node, ast.Attribute | ast.Subscript)
            and isinstance(node.ctx, ast.Store)
            and _root(node) not in made
        ):
            return False
        if isinstance(node, ast.Call) and not _is_pure_call(node, made, known, classes):
            return False
    return True


def _always_returns(body: Sequence[ast.stmt]) -> bool:
    last = body[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and _always_returns(last.body) and _always_returns(last.orelse)
    return isinstance(last, ast.Return)


def _made(function: Function, nodes: Sequence[ast.AST]) -> set[str]:
    """The names of what a function made itself: literals, copies and tables, whatever else is assigned to none."""
    given = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
    values: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    values.setdefault(target.id, []).append(node.value)
    return {name for name, held in values.items() if name not in given and all(map(_is_new, held))}


def _is_new(value: ast.expr) -> bool:
    if isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp):
        return True
    name = called_name(value)
    return name in ("dict", "list", "set", "asdict", "deepcopy", "model_dump", "defaultdict", "sorted")


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_pure_call(call: ast.Call, made: set[str], known: set[str], classes: set[str]) -> bool:
    name = dotted(call.func)
    if name in PURE or name in known or name in classes:
        return name not in dir(builtins) or name in BUILTINS
    if not isinstance(call.func, ast.Attribute):
        return isinstance(call.func, ast.Call) and dotted(call.func.func) == "type"
    return call.func.attr in OF_TEXTS or (call.func.attr in FILLS and _root(call.func.value) in made)
