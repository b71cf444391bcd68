"""The fixed program of a fault case as a source of its own, for tools that read source and run nothing.

A case's faulty and fixed program share classes that a flag tells apart. Here the flag is settled: what builds the
faulty program is dropped, a parameter that every call gives the same constant becomes that constant, branches on
constants are folded, and what nothing refers to any more is removed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

ENTRANCES = ("build", "step", "loss")
Known = dict[str, ast.expr]


def fixed_source(text: str) -> str:
    """The program text of the fixed program alone."""
    tree = ast.parse(text)
    _take_fixed(tree)
    _drop_unused(tree)
    for _ in range(6):
        _merge_bases(tree)
        _settle(tree)
        tree = ast.fix_missing_locations(_Fold().visit(tree))
        _drop_unused(tree)
    return ast.unparse(tree) + "\n"


def _take_fixed(tree: ast.Module) -> None:
    """`build_fixed` takes the place of `build`, and so on; an alias of the faulty one stays what it is."""
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for name in ENTRANCES:
        if f"{name}_fixed" in defined:
            fixed = defined[f"{name}_fixed"]
            if name in defined and any(_is_name(node, name) for node in ast.walk(fixed)):
                defined[name].name = f"{name}_with"  # the fixed one calls it, with another flag
                _Replace({name: ast.Name(f"{name}_with", ast.Load())}).visit(fixed)
            elif name in defined:
                tree.body.remove(defined[name])
            fixed.name = name
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in [f"{name}_fixed" for name in ENTRANCES]:
            node.id = node.id.removesuffix("_fixed")
    if "wrong" in defined:
        tree.body.remove(defined["wrong"])


def _settle(tree: ast.Module) -> None:
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    _Replace({}, _context(tree, names), "ctx").visit(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            _Replace(_constants(tree, node.name, node, 0, names)).visit(node)
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    _Replace(_constants(tree, node.name, method, 1, names)).visit(method)
            family = {base.id for other in tree.body if isinstance(other, ast.ClassDef) for base in other.bases
                      if isinstance(base, ast.Name)}  # fmt: skip
            if node.name not in family and not any(_is_name(base, name) for base in node.bases for name in names):
                _Replace({}, _attributes(node, names)).visit(node)


def _constants(tree: ast.Module, name: str, function: ast.FunctionDef, skip: int, names: set[str]) -> Known:
    """Parameters that every call of a name gives the same constant, function or class of the file."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_name(node.func, name)]
    uses = sum(_is_name(node, name) for node in ast.walk(tree))
    given = function.args
    parameters = [*given.posonlyargs, *given.args][skip:]
    defaults = dict(zip(reversed([part.arg for part in parameters]), reversed(given.defaults), strict=False))
    if not calls or len(calls) != uses:
        return {}
    found: Known = {}
    for at, part in enumerate(parameters):
        values = [_argument(call, at, part.arg, defaults) for call in calls]
        texts = {ast.dump(value) for value in values if value is not None}
        first = values[0]
        if len(texts) == 1 and None not in values and first is not None and _is_constant(first, names):
            found[part.arg] = first
    return found


def _argument(call: ast.Call, at: int, name: str, defaults: Known) -> ast.expr | None:
    if any(isinstance(part, ast.Starred) for part in call.args) or any(part.arg is None for part in call.keywords):
        return None
    if at < len(call.args):
        return call.args[at]
    return next((part.value for part in call.keywords if part.arg == name), defaults.get(name))


def _attributes(owner: ast.ClassDef, names: set[str]) -> Known:
    """`self.flag` that one line of the class sets, to a constant."""
    written: dict[str, list[ast.expr | None]] = {}
    for statement in owner.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            written.setdefault(statement.targets[0].id, []).append(statement.value)
    for node in ast.walk(owner):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
            written.setdefault(node.target.attr, []).append(None)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = _pairs(target, node.value)
                for left, right in pairs:
                    if isinstance(left, ast.Attribute) and _is_name(left.value, "self"):
                        written.setdefault(left.attr, []).append(right)
    return {
        name: values[0]
        for name, values in written.items()
        if len(values) == 1 and values[0] is not None and _is_constant(values[0], names)
    }


def _context(tree: ast.Module, names: set[str]) -> Known:
    """What `Ctx(name=constant)` sets and no other function than `build` changes."""
    found: Known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_name(node.func, "Ctx"):
            for keyword in node.keywords:
                if keyword.arg and _is_constant(keyword.value, names):
                    found[keyword.arg] = keyword.value
    for function in tree.body:
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                name = node.targets[0].attr
                if getattr(function, "name", "") == "build" and _is_constant(node.value, names):
                    found[name] = node.value
                else:
                    found.pop(name, None)
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in found and isinstance(node.value, ast.Name):
            node.value = found[node.arg]
    return found


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        yield from zip(target.elts, value.elts, strict=True)
    elif isinstance(target, ast.Tuple):
        yield from ((part, None) for part in target.elts)
    else:
        yield target, value


def _is_constant(node: ast.expr, names: set[str]) -> bool:
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in names)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


class _Replace(ast.NodeTransformer):
    """Names and attributes of self by what they always are."""

    def __init__(self, names: Known, attributes: Known | None = None, owner: str = "self") -> None:
        self.names, self.attributes, self.owner = names, attributes or {}, owner

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.names.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and _is_name(node.value, self.owner) and node.attr in self.attributes:
            return self.attributes[node.attr]
        self.generic_visit(node)
        return node


class _Fold(ast.NodeTransformer):
    """Branches whose condition is a constant, and what stands behind a return."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        ends = [at for at, statement in enumerate(node.body) if isinstance(statement, ast.Return)]
        node.body = node.body[: ends[0] + 1] if ends else node.body
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return (node.body if node.test.value else node.orelse) or [ast.Pass()]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant):
            return ast.Constant(not node.operand.value)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        left, right = node.left, node.comparators[0]
        if len(node.ops) == 1 and isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            if isinstance(node.ops[0], ast.Eq | ast.Is):
                return ast.Constant(left.value == right.value)
            if isinstance(node.ops[0], ast.NotEq | ast.IsNot):
                return ast.Constant(left.value != right.value)
        return node


def _merge_bases(tree: ast.Module) -> None:
    """A class that is there only as the base of one other becomes part of it."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for derived in list(classes.values()):
        base = classes.get(derived.bases[0].id) if derived.bases and isinstance(derived.bases[0], ast.Name) else None
        if base is None or sum(_is_name(node, base.name) for node in ast.walk(tree)) > 1:
            continue
        own = {name for statement in derived.body for name in _defined(statement)}
        derived.body = [*(part for part in base.body if not own & set(_defined(part))), *derived.body]
        derived.bases = base.bases
        tree.body.remove(base)


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []


def _drop_unused(tree: ast.Module) -> None:
    kept = [*ENTRANCES]
    for node in list(tree.body):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name in kept:
            continue
        inside = {id(part) for part in ast.walk(node)}
        if not any(_is_name(part, node.name) and id(part) not in inside for part in ast.walk(tree)):
            tree.body.remove(node)
