"""Layers of torch.nn: what building one means, what calling one saves, and methods that every module has."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from gradgate.scan import numerics, torch_ops
from gradgate.scan.frame import Frame
from gradgate.scan.modules import Class
from gradgate.scan.nodes import walk
from gradgate.scan.operations import table
from gradgate.scan.values import LIKELY, MAYBE, NO, YES, Node, Value, const, fresh, merge, sequence, tensor, unknown

Options = dict[str, Value]
Invoke = Callable[[Frame, ast.Call, Value, Sequence[Value], Options], Value]
_PAIRS = frozenset({"LSTM", "GRU", "RNN", "LSTMCell", "MultiheadAttention"})
_HOLDERS = frozenset({"Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"})
_SELF = frozenset(
    {
        "train",
        "eval",
        "to",
        "cuda",
        "cpu",
        "float",
        "half",
        "double",
        "bfloat16",
        "apply",
        "requires_grad_",
        "share_memory",
        "type",
    }
)


def build(frame: Frame, node: ast.Call, name: str, given: Sequence[Value], options: Options) -> Value:
    """`torch.nn.Name(...)`."""
    if name == "Parameter":
        source = given[0] if given else options.get("data")
        found = tensor(YES)
        wants = options.get("requires_grad") or (given[1] if len(given) > 1 else None)
        if wants is not None and wants.kind == "const" and not wants.data:
            found.grad = NO
        found.leaf = found.grad == YES
        found.facts = {"parameter": True}
        if source is not None and source.stores and source.kind == "tensor":
            found.stores = source.stores
        return found
    layer = Value("layer", frozenset((fresh(),)), data=name)
    layer.facts = {"options": options, "given": list(given), "trains": True, "line": frame.line(node)}
    if name in _HOLDERS:
        held = [value for value in given if value.kind in ("layer", "instance", "unknown", "tensor")]
        layer.items = held or [item for value in given if value.items for item in value.items]
    return layer


def forward(
    frame: Frame, node: ast.Call, layer: Value, given: Sequence[Value], options: Options, invoke: Invoke
) -> Value:
    """Call a layer."""
    name = str(layer.data)
    if name == "Sequential" and layer.items:
        return chain(frame, node, layer, given, options, invoke)
    entry = table().layers.get(name)
    inputs = [*given, *options.values()]
    source = inputs[0] if inputs else unknown()
    torch_ops.learn(source)
    state = frame.state
    carried = max((frame.grad_of(value) for value in inputs), default=NO)
    if name.startswith("Embedding"):
        carried = NO  # indices
    trains = entry is not None and entry.parameters and layer.facts.get("trains", True)
    if not state.grad_on:
        return _plain(frame, node, layer, source)
    parents: tuple[Node, ...] = ()
    for value in inputs:
        parents = merge(parents, frame.nodes_of(value))
    graph = frame.node(name, node, parents, layer.name if trains else "")
    result = tensor(YES if trains or entry is None else carried, (graph,))
    result.cut = next((value.cut for value in inputs if value.cut), ())
    if max(result.grad, carried) >= MAYBE:
        wants = _inplace_option(layer)
        if wants is not False and entry is not None:
            return written(frame, node, name, source, result, sure=wants is True, keeps=bool(entry.inplace))
        if entry is not None:
            _keep(
                frame,
                graph,
                layer,
                source,
                result,
                entry.grad if carried >= MAYBE else entry.fixed if trains else (),
                max(result.grad, carried),
            )
        _renormalise(frame, node, layer)
        numerics.follow(frame, node, name.lower(), [source], result, {})
    width = layer.facts["given"][1:2] or [layer.facts["options"].get("out_features")]
    if name == "Linear" and width[0] is not None and width[0].kind == "const" and width[0].data == 1:
        result.facts = {**result.facts, "shape": "column"}
    if entry is not None and entry.parameters and not trains:
        result.facts = {**result.facts, "frozen": True}
    if name in _PAIRS:
        return Value("seq", items=[result, tensor(result.grad, (graph,))], nodes=(graph,))
    return result


def _plain(frame: Frame, node: ast.Call, layer: Value, source: Value) -> Value:
    if _inplace_option(layer) is True:
        frame.write(source, node, "inplace", f"nn.{layer.data}(inplace=True)")
        return source
    result = tensor()
    return sequence([result, tensor()]) if layer.data in _PAIRS else result


def _inplace_option(layer: Value) -> bool | None:
    """Whether a layer works in place: True, False, or None where its argument is not known."""
    option = layer.facts["options"].get("inplace")
    if option is None:
        given, name = layer.facts["given"], layer.data
        at = {
            "ReLU": 0,
            "ReLU6": 0,
            "SiLU": 0,
            "Hardswish": 0,
            "Mish": 0,
            "LeakyReLU": 1,
            "ELU": 1,
            "Dropout": 1,
            "Dropout2d": 1,
        }.get(name)
        option = given[at] if at is not None and at < len(given) else None
    if option is None:
        return False
    return bool(option.data) if option.kind == "const" else None


def written(
    frame: Frame, node: ast.Call, name: str, source: Value, result: Value, *, sure: bool, keeps: bool = True
) -> Value:
    """An activation that works in place: its input is its result."""
    op = f"{name}(inplace=True)"
    frame.write(source, node, "inplace", op)
    frame.leaf_write(source, node, op)
    answer = result.copy()
    answer.stores = source.stores if sure else source.stores | result.stores
    if result.nodes:
        for store in answer.stores:
            frame.state.record(store, result.nodes)
    answer.nodes = result.nodes
    answer.name = source.name
    operation = table().operations.get(name)
    if keeps and (operation is None or "result" in operation.inplace.get("0", ())):
        for graph in result.nodes:
            frame.keep(answer, graph, "its result", frame.state.grad(answer))
    frame.clobber(source, node, op)
    return answer


def _keep(
    frame: Frame, graph: Node, layer: Value, source: Value, result: Value, words: Sequence[str], grad: int
) -> None:
    graph.keeps = True
    for word in words:
        if word == "input":
            frame.keep(source, graph, "its input", grad)
        elif word == "result":
            frame.keep(result, graph, "its result", grad)
        elif word == "parameters":
            frame.keep(member(frame, layer, "weight"), graph, "its weight", grad)


def _renormalise(frame: Frame, node: ast.Call, layer: Value) -> None:
    limit = layer.facts["options"].get("max_norm")
    if (
        layer.data in ("Embedding", "EmbeddingBag")
        and limit is not None
        and not (limit.kind == "const" and limit.data is None)
    ):
        before, frame.state.grad_on = frame.state.grad_on, False
        frame.write(member(frame, layer, "weight"), node, "inplace", f"nn.{layer.data}(max_norm=...)")
        frame.state.grad_on = before


def chain(
    frame: Frame, node: ast.Call, holder: Value, given: Sequence[Value], options: Options, invoke: Invoke
) -> Value:
    """nn.Sequential: each of its layers in turn."""
    before = frame.modules
    frame.modules = (*before, holder.name) if holder.name else before
    values: Sequence[Value] = given
    for layer in (holder.items or [])[:40]:
        if not layer.name:
            layer.name = holder.name
        values = [invoke(frame, node, layer, values, options)]
    frame.modules = before
    return values[0] if values else unknown()


def member(frame: Frame, layer: Value, name: str) -> Value:
    """A layer's parameter or buffer; always the same value."""
    store = min(layer.stores)
    held = frame.state.heap.get((store, name))
    if held is None:
        if name in ("weight", "bias"):
            held = torch_ops.parameter(frame, layer, name)
        elif name.startswith("running_"):
            held = tensor(name=name)
        else:
            held = unknown(name)
        frame.state.put(store, name, held)
    return held


def module_method(
    frame: Frame, node: ast.Call, base: Value, name: str, given: Sequence[Value], options: Options
) -> Value:
    """Methods that every nn.Module has."""
    if name in ("parameters", "named_parameters", "buffers", "named_buffers"):
        one = some_tensor_of(base)
        one.grad = YES if "parameters" in name else NO
        one.leaf = "parameters" in name
        found = sequence([sequence([unknown(), one]) if name.startswith("named") else one])
        found.facts = {"any": True}
        found.name = base.name
        return found
    if name in _SELF:
        if (
            name == "requires_grad_"
            and base.kind == "layer"
            and given
            and given[0].kind == "const"
            and given[0].data is False
        ):
            base.facts["trains"] = False
        return base
    if name in ("register_buffer", "register_parameter") and len(given) > 1 and given[0].kind == "const":
        value = given[1]
        if base.kind == "instance":
            value.name = value.name or str(given[0].data)
            value.facts = {**value.facts, "buffer": name == "register_buffer"}
            frame.state.put(base.data[1], str(given[0].data), value)
        return const(None)
    if name in ("append", "add_module") and given and base.kind == "layer":
        base.items = [*(base.items or []), given[-1]][:16]
        return base
    if name == "values" and base.kind == "layer":
        return Value("seq", items=list(base.items or []))
    if name == "items" and base.kind == "layer":
        return Value("seq", items=[sequence([unknown(), item]) for item in base.items or []])
    if name == "forward":
        return frame.run.invoke(frame, node, base, given, options)
    if name == "register_forward_hook" and given and given[0].kind in ("instance", "function"):
        base.facts = {**base.facts, "hook": given[0]}
    return unknown()


def some_tensor_of(base: Value) -> Value:
    """A parameter or buffer of a module, which one is not known."""
    one = tensor(name=base.name)
    one.facts = {"owner": base.name}
    return one


def custom_function(frame: Frame, node: ast.Call, owner: Class, given: Sequence[Value]) -> Value:
    """`Function.apply(...)` of a custom autograd.Function: it keeps what its forward puts on ctx."""
    state = frame.state
    for value in given[:1]:
        torch_ops.learn(value)
    grad = max((frame.grad_of(value) for value in given), default=NO)
    if not state.grad_on or grad == NO:
        return tensor()
    parents: tuple[Node, ...] = ()
    for value in given:
        parents = merge(parents, frame.nodes_of(value))
    graph = frame.node(owner.name, node, parents)
    graph.keeps = True
    function = owner.method("forward")
    if function is not None:
        names = function.parameters[1:]
        for name, unchecked in _kept_on_ctx(function.node, function.parameters[:1]):
            if name in names and names.index(name) < len(given) and given[names.index(name)].kind == "tensor":
                frame.keep(given[names.index(name)], graph, f"ctx of {owner.name}", grad, unchecked=unchecked)
    result = tensor(max(grad, MAYBE), (graph,))
    if function is not None and not _returns_one(function.node):
        result.kind = "unknown"
    return result


def _returns_one(node: Any) -> bool:
    """Whether a forward returns one tensor, as far as its returns show."""
    values = [part.value for part in walk(node) if isinstance(part, ast.Return)]
    return all(
        isinstance(value, ast.Name | ast.BinOp)
        or (
            isinstance(value, ast.Call)
            and not (isinstance(value.func, ast.Name) and value.func.id in ("tuple", "list"))
        )
        for value in values
    )


def _kept_on_ctx(node: Any, ctx: Sequence[str]) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    for part in walk(node):
        if (
            isinstance(part, ast.Call)
            and isinstance(part.func, ast.Attribute)
            and part.func.attr == "save_for_backward"
        ):
            found += [(argument.id, False) for argument in part.args if isinstance(argument, ast.Name)]
        elif isinstance(part, ast.Assign) and isinstance(part.value, ast.Name):
            for target in part.targets:
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in ctx:
                    found.append((part.value.id, True))
    return found


__all__ = [
    "LIKELY",
    "build",
    "chain",
    "custom_function",
    "forward",
    "member",
    "module_method",
    "some_tensor_of",
    "written",
]
