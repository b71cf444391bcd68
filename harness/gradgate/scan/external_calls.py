"""Calls of what is imported: torch, numpy, Python's own functions, and what nobody knows."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradgate.scan import layers, torch_ops, training
from gradgate.scan.builtin_calls import builtin
from gradgate.scan.frame import Frame
from gradgate.scan.opaque_calls import opaque
from gradgate.scan.operations import COPIES, FACTORIES, table
from gradgate.scan.tensor_methods import tensor_method
from gradgate.scan.values import Value, const, fresh, tensors_in, unknown

Options = dict[str, Value]


def external(frame: Frame, dotted: str) -> Value:
    """An imported name."""
    if dotted in ("math.inf", "torch.inf", "numpy.inf"):
        return const(float("inf"))
    return Value("external", data=dotted)


def external_call(frame: Frame, node: ast.Call, dotted: str, given: Sequence[Value], options: Options) -> Value:
    """A call of something imported."""
    head, _, name = dotted.rpartition(".")
    if head == "builtins":
        return builtin(frame, node, name, given, options)
    if dotted.startswith("torch."):
        return _torch_call(frame, node, head, name, given, options)
    if name == "deepcopy" and given:
        return given[0].copy() if given[0].kind != "tensor" else torch_ops.apply(frame, node, "clone", [given[0]], {})
    if head.startswith("numpy"):
        return _numpy_call(frame, node, name, given, options)
    if name == "pack_into" and len(given) > 1:
        frame.write(given[1], node, "array", name)
        return const(None)
    if name.startswith("Adam") or name.endswith(("Optimizer", "SGD")):
        return training.optimizer(frame, given, options)
    return opaque(frame, node, dotted, given, options)


def _numpy_call(frame: Frame, node: ast.Call, name: str, given: Sequence[Value], options: Options) -> Value:
    target = options.get("out") or (given[0] if name in ("copyto", "put", "place", "fill_diagonal") and given else None)
    if target is not None and target.kind in ("array", "unknown"):
        frame.write(target, node, "array", f"np.{name}")
    if name in ("asarray", "ascontiguousarray", "ravel", "reshape") and given and given[0].kind == "array":
        return given[0]
    result = Value("array", frozenset((fresh(),)))
    result.cut = next((value.cut for value in given if value.cut), ())
    return result


def _torch_call(frame: Frame, node: ast.Call, head: str, name: str, given: Sequence[Value], options: Options) -> Value:
    if head == "torch.optim" or (head.startswith("torch.optim.") and name[0].isupper() and "lr_scheduler" not in head):
        return training.optimizer(frame, given, options)
    if head in ("torch.nn", "torch.nn.modules") or (head.startswith("torch.nn.modules.") and name[:1].isupper()):
        return layers.build(frame, node, name, given, options)
    if head.startswith("torch.nn.init") or (head.startswith("torch.nn.utils") and name.startswith("clip_grad")):
        return given[0] if given else unknown()
    if name in ("detach", "detach_") and given:
        return torch_ops.detach(frame, given[0])
    if name == "grad" and head in ("torch.autograd", "torch.autograd.functional"):
        return training.gradients(frame, node, given, options)
    if name == "backward" and head == "torch.autograd" and given:
        training.backward(frame, node, given[0], options)
        return const(None)
    if name == "checkpoint" and head.startswith("torch.utils.checkpoint"):
        return training.checkpoint(frame, node, given, options, frame.run.invoke)
    if name == "set_grad_enabled":
        frame.state.grad_on = not (given and given[0].kind == "const" and not given[0].data)
        return unknown()
    if name.startswith("_foreach_"):
        return _foreach(frame, node, name, given)
    if name in FACTORIES and head == "torch":
        return torch_ops.factory(frame, node, name, given, options)
    if name[:1].isupper() or head.startswith(
        ("torch.distributions", "torch.utils", "torch.distributed", "torch.cuda", "torch.jit", "torch.fx")
    ):
        return opaque(frame, node, f"{head}.{name}", given, options)
    if name in ("is_tensor", "is_grad_enabled", "finfo", "iinfo", "device", "manual_seed", "Generator", "dtype"):
        return unknown(name)
    if head not in _SPACES:
        return opaque(frame, node, f"{head}.{name}", given, options)
    return operation(frame, node, name, given, options)


_SPACES = frozenset({"torch", "torch.nn.functional", "torch.linalg", "torch.special", "torch.fft", "torch.functional"})


def _foreach(frame: Frame, node: ast.Call, name: str, given: Sequence[Value]) -> Value:
    if name.endswith("_") and given:
        for part in tensors_in(given[0]):
            frame.write(part, node, "inplace", f"torch.{name}")
    return given[0] if given else unknown()


def operation(frame: Frame, node: ast.Call, name: str, given: Sequence[Value], options: Options) -> Value:
    """A torch function: what it writes, then what it makes."""
    given = [
        torch_ops.learn(value) if value.kind == "unknown" and at == 0 and name != "einsum" else value
        for at, value in enumerate(given)
    ]
    if name == "einsum":
        given = [torch_ops.learn(value) for value in given]
    for key in ("input", "other", "mask", "value"):
        if key in options:
            given = [*given, options[key]]
    if name in COPIES and given:
        return torch_ops.convert(frame, node, name, given[0], given[1:], options)
    if name.endswith("_") and given and name in table().writes:
        return tensor_method(frame, node, given[0], name, given[1:], options)
    if name in ("isnan", "isfinite", "isinf", "logical_not", "eq", "ne", "lt", "gt", "le", "ge") and given:
        return tensor_method(frame, node, given[0], name, given[1:], options)
    inplace = options.get("inplace")
    result = torch_ops.apply(frame, node, name, given, options)
    if inplace is not None and given and not (inplace.kind == "const" and not inplace.data):
        return layers.written(frame, node, name, given[0], result, sure=inplace.kind == "const")
    out = options.get("out")
    if out is not None and out.kind in ("tensor", "unknown"):
        frame.run.undifferentiated |= frame.state.grad_on
        frame.write(torch_ops.learn(out), node, "inplace", f"{name}(out=)")
        return out
    return result
