"""Methods of tensors."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradgate.scan import builtin_calls, numerics, torch_ops, training
from gradgate.scan.frame import Frame
from gradgate.scan.operations import COPIES, CUTTING, FACTORIES, table
from gradgate.scan.values import LIKELY, MAYBE, NO, YES, Cut, Value, const, merge, tensor, tensors_in, unknown

Options = dict[str, Value]
_NUMBERS = frozenset({"item", "tolist", "__float__"})
_COMPARES = frozenset(
    {
        "eq",
        "ne",
        "lt",
        "gt",
        "le",
        "ge",
        "isnan",
        "isfinite",
        "isinf",
        "logical_and",
        "logical_or",
        "logical_not",
        "bool",
        "allclose",
    }
)
_QUESTIONS = frozenset(
    {
        "size",
        "dim",
        "numel",
        "stride",
        "is_contiguous",
        "element_size",
        "data_ptr",
        "nelement",
        "is_floating_point",
        "get_device",
        "storage",
        "untyped_storage",
        "__len__",
    }
)


def tensor_method(
    frame: Frame, node: ast.Call, base: Value, name: str, given: Sequence[Value], options: Options
) -> Value:
    """`tensor.name(...)`."""
    if name in table().writes:
        return _inplace(frame, node, base, name, given, options)
    if name in ("detach", "detach_"):
        return torch_ops.detach(frame, base)
    if name == "requires_grad_":
        return _requires_grad(frame, node, base, given)
    if name == "numpy":
        forced = options.get("force")
        return torch_ops.alias_array(base, copied=forced is not None)
    if name in _NUMBERS:
        return builtin_calls.number(frame, node, base, name)
    if name in _QUESTIONS:
        return unknown(name)
    if name in COPIES:
        return torch_ops.convert(frame, node, name, base, given, options)
    if name == "backward":
        training.backward(frame, node, base, options)
        return const(None)
    if name in _COMPARES:
        return _compared(frame, node, base, name)
    if name in FACTORIES:
        return torch_ops.factory(frame, node, name, given, options)
    if name in CUTTING:
        return numerics.cutting(frame, node, name, [base])
    if name in ("retain_grad", "register_hook", "cpu_", "pin_memory", "record_stream", "share_memory_"):
        return base
    for key in ("other", "mask", "value"):
        if key in options:
            given = [*given, options[key]]
    if name == "where" and given:
        result = torch_ops.apply(frame, node, name, [given[0], base, *given[1:]], {})
    else:
        result = torch_ops.apply(frame, node, name, [base, *given], options)
    if not result.name and result.stores & base.stores:
        result.name = base.name
    return result


def _compared(frame: Frame, node: ast.Call, base: Value, name: str) -> Value:
    result = tensor()
    result.dtype = "bool"
    result.facts = {"compares": base.stores}
    if name in ("isnan", "isfinite", "isinf"):
        result.facts["nan_of"] = base.stores
    elif name == "logical_not":
        result.facts = dict(base.facts)
    if (
        name not in ("isnan", "isfinite", "isinf", "allclose")
        and frame.state.grad_on
        and frame.state.grad(base) >= LIKELY
    ):
        result.cut = (Cut(frame.line(node), "comparison", frame.state.nodes(base)),)
    else:
        result.cut = base.cut
    return result


def _requires_grad(frame: Frame, node: ast.Call, base: Value, given: Sequence[Value]) -> Value:
    wants = not (given and given[0].kind == "const" and given[0].data is False)
    lost = base.facts.get("detached", ())
    if not wants:
        base.grad, base.leaf = NO, False
        return base
    if base.nodes and frame.state.grad(base) >= YES:
        return base  # already in a graph: nothing changes
    base.leaf, base.grad, base.nodes = True, YES, ()
    if lost and frame.state.grad_on and base.view == "detached":
        base.cut = merge(base.cut, (Cut(frame.line(node), "detach", lost),))
    return base


def _inplace(frame: Frame, node: ast.Call, base: Value, name: str, given: Sequence[Value], options: Options) -> Value:
    other = next((value for value in (*given, *options.values()) if value.kind == "tensor"), None)
    wrote = frame.write(base, node, "quiet" if frame.quiet else "inplace", f"{name}()", other)
    frame.leaf_write(base, node, f"{name}()")
    frame.persist(base, node, other)
    training.parameter_write(frame, node, base, name)
    operation = table().operations.get(name.rstrip("_"))
    if wrote is not None and operation is not None:
        grad = frame.state.grad(base)
        if "result" in operation.saves.get("0", ()) and grad >= MAYBE:
            frame.keep(base, wrote, "its result", grad)
        if grad >= MAYBE and other is not None and len(given) == 1 and "1" in operation.saves.get("0", ()):
            frame.keep(other, wrote, "its input", grad)
    facts = {key: value for key, value in base.facts.items() if key in ("owner",)}
    if name == "masked_fill_":
        probe = tensor()
        numerics.follow(frame, node, "masked_fill", [base, *given], probe, options)
        facts.update(probe.facts)
    base.facts = facts
    return base


__all__ = ["tensor_method", "tensors_in"]
