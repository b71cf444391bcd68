"""What a torch operation does to values: which memory its node keeps, what its result shares, where gradient ends."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradgate.scan import numerics
from gradgate.scan.frame import Frame
from gradgate.scan.operations import COPIES, CUTTING, FACTORIES, FLAT, Operation, table
from gradgate.scan.values import (
    LIKELY,
    MAYBE,
    NO,
    YES,
    Cut,
    Node,
    Value,
    fresh,
    merge,
    nodes_in,
    sequence,
    tensor,
    tensors_in,
    unknown,
)

OPERATORS: dict[type, str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "matmul", ast.Pow: "pow",
    ast.Mod: "remainder", ast.FloorDiv: "floor_divide",
}  # fmt: skip
_ARITHMETIC = frozenset({"mul", "div", "add", "sub", "pow", "remainder", "floor_divide"})
_PLACES = frozenset({"topk", "sort", "kthvalue", "max", "min", "median", "nanmedian", "mode", "cummax", "cummin"})
_PAIRED = frozenset({"max", "min", "median", "nanmedian", "mode"})
_PAIR = Operation({"0": ()}, view=False, many=True, scalar={"0": ()}, inplace={"0": ()})
_INTEGERS = ("long", "int", "int32", "int64", "bool", "uint8", "int8", "int16")
_EXPANDS = ("expand", "expand_as", "broadcast_to")
_HALF = ("half", "float16", "fp16")


def is_tensorish(value: Value) -> bool:
    """Whether a value is a tensor, or hangs on one."""
    return value.kind == "tensor" or (value.kind == "unknown" and bool(value.nodes))


def learn(value: Value) -> Value:
    """Take note that an unknown value is a tensor."""
    if value.kind == "unknown":
        value.kind = "tensor"
    return value


def arithmetic(frame: Frame, place: ast.AST, operator: type, left: Value, right: Value) -> Value:
    """The result of a binary operator."""
    name = OPERATORS.get(operator, "")
    if operator is ast.FloorDiv and "tensor" not in (left.kind, right.kind):
        return unknown()  # of numbers, as far as is known: nothing differentiates it anyway
    if not name or not (is_tensorish(left) or is_tensorish(right)):
        return numerics.plain(operator, left, right)
    return apply(frame, place, name, [left, right], {})


def apply(frame: Frame, place: ast.AST, name: str, operands: Sequence[Value], options: dict[str, Value]) -> Value:
    """Run an operation of the table."""
    state = frame.state
    given = [
        *operands,
        *(value for key, value in options.items() if key not in ("out", "dtype") and is_tensorish(value)),
    ]
    grads = [
        state.grad(value) if value.kind != "seq" else max((state.grad(part) for part in tensors_in(value)), default=NO)
        for value in given
    ]
    if len(given) > 1 and name in _ARITHMETIC:  # beside a tensor, what is not known to be one may as well be a number
        grads = [
            grad if value.kind != "unknown" or value.nodes else NO for grad, value in zip(grads, given, strict=True)
        ]
    strongest = max(grads, default=NO)
    if name in CUTTING:
        return numerics.cutting(frame, place, name, given)
    entry = table().operations.get(name)
    if name in _PAIRED and ("dim" in options or (len(given) > 1 and given[1].kind == "const")):
        entry = _PAIR  # the largest along a dimension, and where it was: only the places are kept
    if not state.grad_on or strongest == NO:
        return _without_grad(frame, place, name, entry, given, options)
    parents: tuple[Node, ...] = ()
    for value in given:
        parents = merge(parents, state.nodes(value) if value.kind != "seq" else _all_nodes(frame, value))
    node = frame.node(name, place, parents)
    result = _result(entry, name, given, strongest, node)
    result.cut = _cuts(given)
    if entry is not None:
        _keep(frame, entry, node, given, grads, result, options)
    if name in FLAT:
        result.cut = merge(result.cut, (Cut(frame.line(place), name, parents),))
        result.nodes, result.grad = (), NO
    numerics.follow(frame, place, name, given, result, options)
    return result


def _all_nodes(frame: Frame, value: Value) -> tuple[Node, ...]:
    found: tuple[Node, ...] = ()
    for part in tensors_in(value):
        found = merge(found, frame.state.nodes(part))
    return found


def _cuts(given: Sequence[Value]) -> tuple[Cut, ...]:
    found: tuple[Cut, ...] = ()
    for value in given:
        for part in (value, *(tensors_in(value) if value.kind == "seq" else ())):
            if part.cut and part.dtype not in ("int", "bool"):  # an index or a mask is meant to carry no gradient
                found = merge(found, part.cut)
    return found[:6]


def _without_grad(
    frame: Frame, place: ast.AST, name: str, entry: Operation | None, given: Sequence[Value], options: dict[str, Value]
) -> Value:
    result = tensor()
    result.cut = _cuts(given)
    if entry is not None and entry.view and given and given[0].kind == "tensor":
        base = given[0]
        result.stores, result.view, result.silent, result.ignored = base.stores, base.view, base.silent, base.ignored
        if name in _EXPANDS:
            result.view = "expand"
        if not frame.state.grad_on and frame.state.grad(base) >= LIKELY and base.view != "detached" and not base.leaf:
            result.view, result.grad, result.nodes = "no_grad", frame.state.grad(base), frame.state.nodes(base)
        elif base.leaf:
            result.leaf, result.grad = True, base.grad
        if entry.many:
            return sequence([_twin(result) for _ in range(2)])
    numerics.follow(frame, place, name, given, result, options)
    return result


def _result(entry: Operation | None, name: str, given: Sequence[Value], grad: int, node: Node) -> Value:
    result = tensor(grad, (node,))
    if entry is not None and entry.view and given and name not in COPIES:
        base = given[0]
        result.stores, result.silent, result.leaf, result.ignored = base.stores, base.silent, base.leaf, base.ignored
        result.view = base.view if base.view in ("detached", "many", "no_grad") else "leaf" if base.leaf else ""
        if name in _EXPANDS:
            result.view = "expand"
        if entry.many:
            result.view = "many"
            return Value("seq", items=[result, _twin(result)], nodes=(node,))
    elif entry is not None and entry.many:
        other = tensor(grad, (node,))
        if name in _PLACES:  # the second result says where: integers
            other = tensor()
            other.dtype = "int"
        return Value("seq", items=[result, other], nodes=(node,))
    return result


def _twin(value: Value) -> Value:
    twin = value.copy()
    twin.name = ""
    return twin


def _keep(
    frame: Frame,
    entry: Operation,
    node: Node,
    given: Sequence[Value],
    grads: Sequence[int],
    result: Value,
    options: dict[str, Value],
) -> None:
    rows = entry.saves
    inplace = options.get("inplace")
    if inplace is not None and not (inplace.kind == "const" and not inplace.data):
        rows = entry.inplace
    elif len(given) > 1 and given[1].kind == "const":
        rows = entry.scalar
    for slot, grad in enumerate(grads):
        if grad < MAYBE:
            continue
        for kept in rows.get(str(slot), ()):
            if kept == "result":
                for part in tensors_in(result):
                    frame.keep(part, node, "its result", grad)
            elif int(kept) < len(given):
                other = given[int(kept)]
                for part in tensors_in(other) if other.kind == "seq" else (other,):
                    if part.kind == "tensor":
                        frame.keep(part, node, "its input", grad)


def index_view(frame: Frame, base: Value, node: ast.Subscript) -> Value:
    """`x[...]`: a view of x, or a copy where a tensor indexes it."""
    part = node.slice
    copies = isinstance(part, ast.Compare | ast.BoolOp | ast.List) or (
        isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Invert)
    )
    if isinstance(part, ast.Name):
        value = frame.env.get(part.id)
        copies = value is not None and value.kind == "tensor"
    if isinstance(node.ctx, ast.Load) and copies:
        result = apply(frame, node, "index_select", [base], {})
        result.facts = {}
        return result
    if base.view in ("detached", "no_grad", "many"):
        view = base.copy()
        view.name = ""
        return view
    entry = "select"
    result = apply(frame, node, entry, [base], {})
    if base.name and not result.name:
        result.name = base.name
    if isinstance(part, ast.Tuple) and any(isinstance(item, ast.Constant) and item.value is None for item in part.elts):
        result.facts = {**result.facts, "spread": base.stores}
    return result


def factory(frame: Frame, place: ast.Call, name: str, operands: Sequence[Value], options: dict[str, Value]) -> Value:
    """A new tensor from numbers, a shape, or (at the price of its history) from tensors."""
    result = tensor()
    wants = options.get("requires_grad")
    requires = wants is not None and wants.kind == "const" and bool(wants.data)
    dtype = options.get("dtype")
    result.dtype = dtype_of(dtype)
    if operands and name in ("tensor", "as_tensor", "new_tensor"):
        source = operands[0]
        if source.kind == "const" and isinstance(source.data, int | float):
            result.data = source.data
        sources = [
            part
            for part in (source, *tensors_in(source))
            if part.kind in ("tensor", "array") and part.facts.get("number") is None
        ]
        kept = [part for part in sources if frame.state.grad(part) >= LIKELY]
        if name != "as_tensor" and (kept or source.cut):
            lost = frame.state.nodes(kept[0]) if kept else ()
            cuts = (Cut(frame.line(place), "tensor", lost),) if kept else ()
            result.cut = merge(cuts, _cuts([source]))
        if name == "tensor" and requires and source.kind == "tensor":
            frame.run.cut_at(frame, place, "tensor-requires-grad", source)
    if name in ("from_numpy", "frombuffer", "as_tensor") and operands and operands[0].stores:
        result.stores = operands[0].stores
    if requires:
        result.leaf, result.grad = True, YES
    if name.endswith("_like") and operands and not result.dtype:
        result.dtype = operands[0].dtype
    return result


def dtype_of(value: Value | None) -> str:
    """`half`, `float`, `int` or empty, from a dtype argument."""
    if value is None:
        return ""
    word = str(value.data).rpartition(".")[2] if value.kind == "external" else ""
    if word in _HALF:
        return "half"
    if word in _INTEGERS:
        return "int"
    return "float" if word in ("float", "float32", "float64", "double", "bfloat16") else ""


def convert(
    frame: Frame, place: ast.AST, name: str, base: Value, operands: Sequence[Value], options: dict[str, Value]
) -> Value:
    """`.to()`, `.half()`, `.float()`, `.cpu()`, `.clone()`, `.contiguous()`: history stays, memory may."""
    result = apply(frame, place, "clone", [base], {})
    if result.kind != "tensor":
        return result
    result.name = base.name
    result.facts = dict(base.facts)
    result.dtype = base.dtype
    result.data = base.data
    dtype = name if name in (*_HALF, "float", "double", "bfloat16", "long", "int", "bool") else ""
    found = dtype_of(options.get("dtype") or next((value for value in operands if value.kind == "external"), None))
    if dtype or found:
        result.dtype = found or ("half" if dtype in _HALF else "int" if dtype in _INTEGERS else "float")
        numerics.narrowed(frame, place, result)
    result.cut = base.cut
    if not (dtype or found) and any(value.kind == "unknown" for value in (*operands, *options.values())):
        result.dtype = ""  # to whatever dtype that is
    if result.dtype == "int":
        result.grad, result.nodes, result.cut = NO, (), ()
    if name in ("contiguous", "cpu", "cuda", "to", "float", "type_as"):  # no copy where nothing changes
        result.stores = result.stores | base.stores if name == "contiguous" else result.stores
    if base.leaf and name not in ("clone", "contiguous"):
        result.leaf = False
    return result


def detach(frame: Frame, base: Value) -> Value:
    """`.detach()`: the same memory and version, no history."""
    twin = base.copy()
    twin.kind = "tensor" if base.kind == "tensor" else base.kind
    twin.grad, twin.nodes, twin.view, twin.leaf, twin.cut = NO, (), "detached", False, ()
    twin.facts = {**base.facts, "detached": frame.state.nodes(base)}
    return twin


def data(base: Value) -> Value:
    """`.data`: the same memory, a version of its own, no history."""
    twin = base.copy()
    twin.grad, twin.nodes, twin.view, twin.leaf, twin.silent, twin.cut = NO, (), "detached", False, True, ()
    return twin


def alias_array(base: Value, *, copied: bool) -> Value:
    """`.numpy()`: the tensor's memory as an array."""
    array = Value("array", frozenset((fresh(),)) if copied else base.stores, name=base.name, nodes=nodes_in(base))
    if not copied:
        array.facts = {"array_of": (base.name, "detach" if base.view == "detached" else "direct")}
    return array


def parameter(frame: Frame, owner: Value, attribute: str) -> Value:
    """A parameter of a layer: a leaf, one per layer and name."""
    found = tensor(YES if owner.facts.get("trains", True) else NO, name=attribute)
    found.leaf = owner.facts.get("trains", True)
    found.facts = {"owner": owner.name}
    return found


__all__ = [
    "FACTORIES",
    "alias_array",
    "apply",
    "arithmetic",
    "convert",
    "data",
    "detach",
    "dtype_of",
    "factory",
    "index_view",
    "is_tensorish",
    "learn",
    "parameter",
]
