"""Operators: the small changes that training code suffers, for any source: a mask dropped, an axis swapped, a detach.

Each operator turns a statement into others that differ from it in one place. Applied to a sound source they generate
mutants; applied to a faulty one they are trial repairs, since most of them are each other's inverse.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
Made = Iterator[tuple[str, ast.expr]]

_BINARY: Mapping[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
_COMPARED: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt, ast.Eq),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_SIBLINGS: Mapping[str, tuple[str, ...]] = {
    "sum": ("mean",),
    "mean": ("sum",),
    "abs": ("square",),
    "square": ("abs",),
    "amax": ("amin",),
    "amin": ("amax",),
    "argmax": ("argmin",),
    "any": ("all",),
    "all": ("any",),
    "zeros": ("ones",),
    "ones": ("zeros",),
    "zeros_like": ("ones_like",),
    "ones_like": ("zeros_like",),
    "max": ("min",),
    "min": ("max",),
    "tril": ("triu",),
    "triu": ("tril",),
    "train": ("eval",),
    "eval": ("train",),
}
_DTYPES: Mapping[str, tuple[str, ...]] = {
    "float64": ("float32",),
    "float32": ("bfloat16", "float64"),
    "bfloat16": ("float16",),
    "float16": ("bfloat16",),
}
# Methods whose loss leaves an expression that still makes sense, and training that does not.
_DROPPED = {
    "abs", "bfloat16", "clamp", "clamp_", "clamp_max", "clamp_min", "clone", "contiguous", "data", "detach", "double",
    "exp", "flip", "float", "half", "log", "masked_fill", "nan_to_num", "relu", "roll", "sigmoid", "softmax", "sqrt",
    "square", "t", "tanh", "to", "transpose", "tril", "triu", "view",
}  # fmt: skip
_AXES = {"dim", "axis"}
_CHAIN = 4
_WRAPPED = ("detach", "double")  # what an operand may lack


@dataclass(frozen=True, slots=True)
class Variant:
    """A statement with one place changed.

    Args:
        operator: kebab-case name of what was done.
        line: of the place, from 1.
        before: the statement as Python.
        after: the changed statement; empty: it is gone.
    """

    operator: str
    line: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Names that a statement may use: those of the function, by the suffix that gives their axes."""

    names: tuple[str, ...]
    masks: tuple[str, ...]
    unused: tuple[str, ...]
    scalars: tuple[str, ...]


def variants(function: Function) -> Iterator[Variant]:
    """Every statement of a function, changed in one place at a time.

    Args:
        function: from a parsed source; it is not changed.

    Yields:
        Variants in the order of the statements; none twice.
    """
    scope = scope_of(function)
    for statement in statements(function):
        yield from of_statement(statement, scope)


def of_statement(statement: ast.stmt, scope: Scope) -> Iterator[Variant]:
    """One statement, changed in one place at a time; no outcome twice."""
    before = ast.unparse(statement)
    seen = {before}
    for operator, line, after in _of_statement(statement, scope):
        if after not in seen:
            seen.add(after)
            yield Variant(operator, line, before, after)


def functions(tree: ast.AST, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Function]]:
    """Functions of modules and classes with their dotted path; those inside functions belong to the outer one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (*path, node.name), node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, (*path, node.name))


def statements(function: Function) -> Iterator[ast.stmt]:
    """The statements of a function without its docstring, also those inside others, in the order of the source."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.stmt) and not isinstance(node, ast.Pass | ast.Import | ast.ImportFrom):
                yield node


def heads(statement: ast.stmt) -> Iterator[ast.expr]:
    """The expressions that belong to the statement itself, not to statements inside it."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.expr):
            yield child
        elif isinstance(child, ast.withitem):
            yield child.context_expr


def _of_statement(statement: ast.stmt, scope: Scope) -> Iterator[tuple[str, int, str]]:
    if isinstance(statement, ast.Expr | ast.AugAssign) or _is_of_an_object(statement):
        yield "skip-statement", statement.lineno, ""
    for operator, body in _of_block(statement):
        yield operator, statement.lineno, "\n".join(map(ast.unparse, body))
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        text = ast.unparse(statement)
        yield "call-twice", statement.lineno, f"{text}\n{text}"
    if isinstance(statement, ast.Assign | ast.Return) and isinstance(statement.value, ast.Call):
        for scalar in scope.scalars:
            divided = ast.BinOp(statement.value, ast.Div(), ast.Name(scalar, ast.Load()))
            yield "add-divisor", statement.lineno, exchanged(statement, statement.value, divided)
    for place in _places(statement):
        for operator, changed in _of_expression(place, scope):
            yield operator, place.lineno, exchanged(statement, place, changed)


def _is_of_an_object(statement: ast.stmt) -> bool:
    """Whether it assigns to parts of objects alone, so that no name is missing without it."""
    targets = statement.targets if isinstance(statement, ast.Assign) else ()
    return bool(targets) and all(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)


def _of_block(statement: ast.stmt) -> Iterator[tuple[str, Sequence[ast.stmt]]]:
    """What stands in a condition or a context, without it; or nothing in its place."""
    if isinstance(statement, ast.If):
        yield "drop-guard", statement.body
        yield "skip-branch", statement.orelse
    elif isinstance(statement, ast.With):
        yield "drop-context", statement.body


def _places(statement: ast.stmt) -> Iterator[ast.expr]:
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    for head in heads(statement):
        if head in targets or isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for node in ast.walk(head):
            if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
                yield node


def exchanged(statement: ast.stmt, place: ast.expr, changed: ast.expr) -> str:
    """The statement's text with one expression exchanged."""

    class Exchange(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return changed if node is place else self._deeper(node)

        def _deeper(self, node: ast.AST) -> ast.AST:
            fresh = copy.copy(node)
            for name, held in ast.iter_fields(node):
                if isinstance(held, list):
                    setattr(fresh, name, [self.visit(x) if isinstance(x, ast.AST) else x for x in held])
                elif isinstance(held, ast.AST):
                    setattr(fresh, name, self.visit(held))
            return fresh

    return ast.unparse(ast.fix_missing_locations(Exchange().visit(statement)))


def _of_expression(node: ast.expr, scope: Scope) -> Made:
    for kind, operator in _OPERATORS:
        if isinstance(node, kind):
            yield from operator(node, scope)


def _of_call(node: ast.Call, _: Scope) -> Made:
    function = node.func
    if isinstance(function, ast.Attribute):
        if not _is_module(function.value):
            known = function.attr in _DROPPED
            yield f"drop-{function.attr.strip('_').replace('_', '-')}" if known else "drop-method", function.value
        for sibling in _SIBLINGS.get(function.attr, ()):
            yield f"{function.attr}-to-{sibling}", _replaced(node, func=_replaced(function, attr=sibling))
    elif isinstance(function, ast.Name):
        for sibling in _SIBLINGS.get(function.id, ()):
            yield f"{function.id}-to-{sibling}", _replaced(node, func=ast.Name(sibling, ast.Load()))
    for argument in node.args:
        yield "drop-call", argument
    for index in range(len(node.args) - 1):
        one, other = node.args[index : index + 2]
        yield "swap-arguments", _replaced(node, args=[*node.args[:index], other, one, *node.args[index + 2 :]])
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            rest = [*node.keywords[:index], *node.keywords[index + 1 :]]
            yield "drop-argument", _replaced(node, keywords=rest)


def _of_dtype(node: ast.Attribute, _: Scope) -> Made:
    for other in _DTYPES.get(node.attr, ()) if _is_module(node.value) else ():
        yield "wrong-dtype", _replaced(node, attr=other)


def _of_axis(node: ast.Call, _: Scope) -> Made:
    """Another axis, by keyword or as a lone number."""
    for index, keyword in enumerate(node.keywords):
        if keyword.arg in _AXES:
            for axis in (-1, 0, 1):
                other = ast.keyword(keyword.arg, _number(axis))
                rest = [*node.keywords[:index], other, *node.keywords[index + 1 :]]
                yield "swap-axis", _replaced(node, keywords=rest)


def _of_binary(node: ast.BinOp, scope: Scope) -> Made:
    for scalar in scope.scalars if isinstance(node.op, ast.Div) else ():
        yield "other-divisor", _replaced(node, right=ast.Name(scalar, ast.Load()))
    for other in _BINARY.get(type(node.op), ()):
        yield "swap-operator", _replaced(node, op=other())
    yield "drop-operand", node.left
    yield "drop-operand", node.right
    if isinstance(node.op, ast.Div):
        guarded = ast.Call(ast.Attribute(node.right, "clamp", ast.Load()), [], [ast.keyword("min", _number(1))])
        yield "guard-divisor", _replaced(node, right=guarded)


def _of_unary(node: ast.UnaryOp, _: Scope) -> Made:
    if isinstance(node.op, ast.Invert | ast.Not | ast.USub):
        yield "drop-sign" if isinstance(node.op, ast.USub) else "invert-mask", node.operand


def _of_compare(node: ast.Compare, _: Scope) -> Made:
    if len(node.ops) == 1:
        for other in _COMPARED.get(type(node.ops[0]), ()):
            yield "swap-comparison", _replaced(node, ops=[other()])


def _of_choice(node: ast.IfExp, _: Scope) -> Made:
    yield "one-branch", node.body
    yield "one-branch", node.orelse


def _of_either(node: ast.BoolOp, _: Scope) -> Made:
    for index in range(len(node.values)):
        rest = [*node.values[:index], *node.values[index + 1 :]]
        yield "drop-condition", rest[0] if len(rest) == 1 else _replaced(node, values=rest)


def _of_part(node: ast.expr, _: Scope) -> Made:
    """What a chain of calls, slices and operations was made from, at most four of them back."""
    at = [node]
    for _back in range(_CHAIN):
        at = [inner for outer in at for inner in _parts(outer)]
        for inner in at if _back else ():  # the nearest have operators of their own
            yield "keep-part", inner


def _of_subscript(node: ast.Subscript, _: Scope) -> Made:
    yield "drop-index", node.value


def _parts(node: ast.expr) -> list[ast.expr]:
    """The operands of an expression that are tensors as likely as itself."""
    if isinstance(node, ast.Call):
        method = isinstance(node.func, ast.Attribute) and not _is_module(node.func.value)
        given = [argument for argument in node.args if not isinstance(argument, ast.Constant | ast.Starred)]
        return [node.func.value, *given] if method and isinstance(node.func, ast.Attribute) else given
    if isinstance(node, ast.BinOp):
        return [part for part in (node.left, node.right) if not isinstance(part, ast.Constant)]
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.BoolOp):
        return list(node.values)
    if isinstance(node, ast.Subscript):
        return [node.value]
    return [node.operand] if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant) else []


def _of_constant(node: ast.Constant, _: Scope) -> Made:
    if isinstance(node.value, bool):
        yield "flip-flag", ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield "off-by-one", _number(node.value + 1)
        yield "off-by-one", _number(node.value - 1)
    if isinstance(node.value, int | float) and not isinstance(node.value, bool):
        yield "flip-sign", _number(-node.value)
        yield "mask-value", ast.parse("float('inf')", mode="eval").body


def _of_name(node: ast.Name, scope: Scope) -> Made:
    """Another name with the same axes, a mask or a detach that is missing, a name that nothing uses."""
    axes = _axes(node.id)
    if axes:
        for other in scope.names:
            if other != node.id and _axes(other) == axes:
                yield "other-name", ast.Name(other, ast.Load())
        if node.id in scope.masks:
            yield "invert-mask", ast.UnaryOp(ast.Invert(), node)
        for wrapped in _WRAPPED:
            yield f"add-{wrapped}", ast.Call(ast.Attribute(node, wrapped, ast.Load()), [], [])
        for mask in scope.masks:
            if _axes(mask) == axes and mask != node.id and node.id not in scope.masks:
                yield "add-mask", ast.parse(f"{node.id}.masked_fill(~{mask}, 0.0)", mode="eval").body


def _of_operand(node: ast.expr, scope: Scope) -> Made:
    """A factor or divisor that nothing uses any more."""
    if isinstance(node, ast.Name | ast.Call | ast.BinOp):
        for unused in scope.unused:
            for operator in (ast.Mult(), ast.Div()):
                yield "use-unused", ast.BinOp(node, operator, ast.Name(unused, ast.Load()))


def _of_slice(node: ast.Slice, _: Scope) -> Made:
    for name in ("lower", "upper"):
        if getattr(node, name) is not None:
            yield "drop-bound", _replaced(node, **{name: None})
    if node.upper is None and isinstance(node.lower, ast.Constant) and isinstance(node.lower.value, int):
        yield "other-end", _replaced(node, lower=None, upper=_number(-node.lower.value))
    if node.lower is None and isinstance(node.upper, ast.UnaryOp) and isinstance(node.upper.op, ast.USub):
        yield "other-end", _replaced(node, lower=node.upper.operand, upper=None)


_OPERATORS: Sequence[tuple[Any, Callable[..., Made]]] = (
    (ast.Call, _of_call),
    (ast.Call, _of_axis),
    (ast.Attribute, _of_dtype),
    (ast.BinOp, _of_binary),
    (ast.UnaryOp, _of_unary),
    (ast.Compare, _of_compare),
    (ast.IfExp, _of_choice),
    (ast.Constant, _of_constant),
    (ast.Slice, _of_slice),
    (ast.Subscript, _of_subscript),
    (ast.BoolOp, _of_either),
    (ast.Call | ast.BinOp | ast.Subscript | ast.IfExp | ast.UnaryOp, _of_part),
    (ast.Name, _of_name),
    (ast.expr, _of_operand),
)


def scope_of(function: Function) -> Scope:
    """The names of a function."""
    given = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    stored = [node.id for node in names if isinstance(node.ctx, ast.Store)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    known = tuple(dict.fromkeys([*given, *stored]))
    masks = tuple(name for name in known if _axes(name) and name.startswith(("valid", "mask", "some")))
    unused = tuple(name for name in known if name not in read and name not in ("self", "cls", "_"))
    scalars = tuple(name for name in known if not _axes(name) and name not in ("self", "cls", "_"))
    return Scope(known, masks, unused, scalars)


def _axes(name: str) -> str:
    """The suffix that names a tensor's axes, `BS` of `value_BS`; empty: none."""
    _, _, suffix = name.rpartition("_")
    return suffix if suffix.isupper() or suffix[:1].isupper() else ""


def _is_module(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("torch", "math", "functional", "F", "nn", "np", "numpy")


def _number(value: float) -> ast.expr:
    return ast.UnaryOp(ast.USub(), ast.Constant(-value)) if value < 0 else ast.Constant(value)


def _replaced(node: ast.expr, **fields: object) -> ast.expr:
    fresh = copy.copy(node)
    for name, held in fields.items():
        setattr(fresh, name, held)
    return fresh
