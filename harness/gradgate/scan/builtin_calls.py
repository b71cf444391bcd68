"""Python's own functions, as far as they carry tensors."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence

from gradgate.scan import layers, torch_ops
from gradgate.scan.frame import BUDGET, Frame
from gradgate.scan.values import Cut, Value, const, join, sequence, tensors_in, unknown

BUILTINS = frozenset(dir(builtins))


def builtin(frame: Frame, node: ast.Call, name: str, given: Sequence[Value], options: dict[str, Value]) -> Value:
    """The result of a built-in function."""
    first = given[0] if given else None
    if name == "float" and first is not None and first.kind == "const" and isinstance(first.data, str):
        try:
            return const(float(first.data))
        except ValueError:
            return unknown()
    if first is None:
        return (
            sequence([])
            if name in ("list", "tuple", "set")
            else Value("dict", items=list(options.values()))
            if name == "dict"
            else unknown()
        )
    if name in ("float", "int", "bool") and first.kind == "tensor":
        return number(frame, node, first, name)
    if name in ("list", "tuple", "reversed", "sorted", "iter", "set"):
        return first
    if name == "range":
        turns = sequence([unknown(), unknown()])
        turns.facts = {"any": True}
        return turns
    if name == "enumerate":
        return _each(first, lambda item: sequence([unknown(), item]))
    if name == "zip":
        return _zip(given)
    if name in ("min", "max", "next"):
        return _any_of(given)
    if name == "sum":
        return _sum(frame, node, given)
    if name == "getattr" and len(given) > 1:
        return _getattr(frame, given)
    if name == "setattr" and len(given) > 2:
        frame.escape(given[2])
    return unknown()


def number(frame: Frame, node: ast.AST, base: Value, how: str) -> Value:
    """A tensor read as a Python number: its history ends here."""
    result = unknown()
    if frame.state.grad_on and frame.state.nodes(base):
        result.cut = (Cut(frame.line(node), how, frame.state.nodes(base)),)
        frame.run.limit = BUDGET
    else:
        result.cut = base.cut
    result.facts = {"number": True}
    return result


def items_of(value: Value) -> list[Value]:
    """The values that iterating over a value gives; one stands for many."""
    if value.kind in ("seq", "dict", "layer") and value.items:
        return value.items
    if value.kind == "tensor":
        part = value.copy()
        part.view, part.name = ("detached" if value.view == "detached" else "many"), ""
        return [part]
    part = unknown()
    part.nodes, part.grad = value.nodes, value.grad
    return [part]


def _each(source: Value, wrap: object) -> Value:
    found = sequence([wrap(item) for item in items_of(source)])  # type: ignore[operator]
    if source.facts.get("any") or len(found.items or []) == 1:
        found.facts = {"any": True}
    return found


def _zip(given: Sequence[Value]) -> Value:
    columns = [items_of(value) for value in given]
    longest = max(len(column) for column in columns)
    rows = [sequence([column[min(at, len(column) - 1)] for column in columns]) for at in range(longest)]
    found = sequence(rows)
    if longest == 1:
        found.facts = {"any": True}
    return found


def _any_of(given: Sequence[Value]) -> Value:
    values = items_of(given[0]) if len(given) == 1 else list(given)
    found = values[0]
    for value in values[1:]:
        found = join(found, value)
    return found


def _sum(frame: Frame, node: ast.Call, given: Sequence[Value]) -> Value:
    parts = list(tensors_in(given[0])) or [item for item in given[0].items or [] if item.nodes]
    if not parts:
        return unknown()
    found = parts[0]
    for part in parts[1:]:
        found = torch_ops.apply(frame, node, "add", [found, part], {})
    return torch_ops.apply(frame, node, "add", [found, const(0)], {})


def _getattr(frame: Frame, given: Sequence[Value]) -> Value:
    base, name = given[0], given[1]
    if name.kind == "const" and isinstance(name.data, str) and base.kind == "instance":
        found = frame.state.heap.get((base.data[1], name.data))
        return found if found is not None else unknown(name.data)
    if base.kind in ("layer", "instance", "unknown") and name.kind != "const":
        return layers.some_tensor_of(base)
    return unknown()
