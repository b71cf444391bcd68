"""Calls: into functions that can be read, into torch, into layers, and into the unknown."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradgate.scan import layers, numerics, torch_ops, training
from gradgate.scan.builtin_calls import BUILTINS
from gradgate.scan.containers import container_method
from gradgate.scan.external_calls import external_call
from gradgate.scan.frame import DEPTH, Frame
from gradgate.scan.modules import Class, Function
from gradgate.scan.opaque_calls import opaque, remember
from gradgate.scan.operations import table
from gradgate.scan.tensor_methods import tensor_method
from gradgate.scan.values import (
    LIKELY,
    Value,
    const,
    fresh,
    join,
    merge,
    sequence,
    unknown,
)

Options = dict[str, Value]


def call(frame: Frame, node: ast.Call) -> Value:
    """The value of a call expression."""
    function = node.func
    if isinstance(function, ast.Attribute):
        inner = function.value
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "super":
            return _super(frame, node, function.attr)
        dotted = _dotted(frame, function)
        if dotted:
            given, options = arguments(frame, node)
            return external_call(frame, node, dotted, given, options)
        base = frame.evaluate(inner)
        given, options = arguments(frame, node)
        return method(frame, node, base, function.attr, given, options)
    callee = frame.evaluate(function)
    given, options = arguments(frame, node)
    return invoke(frame, node, callee, given, options)


def _dotted(frame: Frame, node: ast.Attribute) -> str:
    root: ast.expr = node
    while isinstance(root, ast.Attribute):
        root = root.value
    return frame.function.module.dotted(node) if isinstance(root, ast.Name) and root.id not in frame.env else ""


def arguments(frame: Frame, node: ast.Call) -> tuple[list[Value], Options]:
    """The values of a call's arguments."""
    given: list[Value] = []
    for part in node.args:
        value = frame.evaluate(part.value if isinstance(part, ast.Starred) else part)
        if isinstance(part, ast.Starred) and value.kind == "seq" and value.items is not None:
            given += value.items
        else:
            given.append(value)
    return given, {part.arg or "**": frame.evaluate(part.value) for part in node.keywords}


def invoke(frame: Frame, node: ast.Call, callee: Value, given: Sequence[Value], options: Options) -> Value:
    """Call a value."""
    kind = callee.kind
    if kind == "function":
        function, myself = callee.data
        return enter(frame, node, function, myself, given, options, callee.facts.get("outer"))
    if kind == "class":
        return instantiate(frame, node, callee.data, given, options)
    if kind == "layer":
        return layers.forward(frame, node, callee, given, options, invoke)
    if kind == "instance":
        return call_instance(frame, node, callee, given, options)
    if kind == "external":
        return external_call(frame, node, str(callee.data), given, options)
    if kind == "maybe":
        return join(*[invoke(frame, node, one, given, options) for one in (callee.items or [])[:2]])
    return opaque(frame, node, callee.name, given, options, module=True)


def call_instance(frame: Frame, node: ast.Call, callee: Value, given: Sequence[Value], options: Options) -> Value:
    """Call an object: `__call__`, or a module's forward."""
    owner: Class = callee.data[0]
    function = owner.method("__call__") or owner.method("forward")
    if function is None:
        if owner.is_layer and callee.items:
            return layers.chain(frame, node, callee, given, options, invoke)
        return opaque(frame, node, callee.name, given, options, module=True)
    return _enter_object(frame, node, function, callee, given, options)


def _enter_object(
    frame: Frame, node: ast.Call, function: Function, myself: Value, given: Sequence[Value], options: Options
) -> Value:
    """Run a method; nodes that it makes know the object's name."""
    before = frame.modules
    if myself.name and myself.name not in before:
        frame.modules = (*before, myself.name)
    result = enter(frame, node, function, myself, given, options)
    frame.modules = before
    return result


def enter(
    frame: Frame, node: ast.Call, function: Function, myself: Value | None, given: Sequence[Value], options: Options,
    outer: dict[str, Value] | None = None,
) -> Value:  # fmt: skip
    """Run a function's body with these arguments."""
    run = frame.run
    if frame.depth >= DEPTH or run.cost > run.limit or function in run.entered:
        return opaque(frame, node, function.name, given, options)
    run.entered.append(function)
    inside = Frame(run, function, {}, frame.state, myself, frame.modules, frame.depth + 1, min(frame.loops, 1))
    inside.outer = outer
    inside.quiet = frame.quiet
    bind(inside, given, options)
    before = frame.state.grad_on
    if function.no_grad:
        inside.state.grad_on = False
    result = inside.run_body()
    frame.state = inside.state
    if function.no_grad or not function.sets_grad:
        frame.state.grad_on = before
    run.entered.pop()
    return result


def bind(frame: Frame, given: Sequence[Value], options: Options) -> None:
    """Give a frame's function its arguments."""
    parameters = frame.function.node.args
    names = [part.arg for part in (*parameters.posonlyargs, *parameters.args)]
    values = list(given)
    if frame.myself is not None and not frame.function.static and names:
        values.insert(0, frame.myself)
    for name, value in zip(names, values, strict=False):
        frame.env[name] = value
    if parameters.vararg is not None:
        frame.env[parameters.vararg.arg] = sequence(values[len(names) :])
    for name, value in options.items():
        frame.env[name] = value
    if parameters.kwarg is not None:
        frame.env[parameters.kwarg.arg] = Value(
            "dict", items=[value for name, value in options.items() if name not in names]
        )
    defaults = dict(zip(reversed(names), reversed(parameters.defaults), strict=False))
    defaults |= {
        part.arg: default
        for part, default in zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
        if default is not None
    }
    for name in (*names, *(part.arg for part in parameters.kwonlyargs)):
        if name not in frame.env:
            frame.env[name] = (
                frame.evaluate(defaults[name])
                if isinstance(defaults.get(name), ast.Constant | ast.UnaryOp | ast.Attribute)
                else unknown(name)
            )


def instantiate(frame: Frame, node: ast.Call, owner: Class, given: Sequence[Value], options: Options) -> Value:
    """Make an object of a class that can be read."""
    value = Value("instance", data=(owner, fresh()))
    first = owner.method("__init__")
    if first is not None:
        enter(frame, node, first, value, given, options)
    else:
        remember(frame, options)
        for name, option in options.items():
            frame.state.put(value.data[1], name, option)
        if owner.is_layer:
            value.items = list(given)
    return value


def _super(frame: Frame, node: ast.Call, name: str) -> Value:
    given, options = arguments(frame, node)
    owner = frame.function.owner
    if owner is not None and frame.myself is not None:
        for parent in owner.lineage()[1:]:
            if name in parent.methods:
                return enter(frame, node, parent.methods[name], frame.myself, given, options)
        if name == "__init__" and frame.myself.kind == "instance" and "torch.nn.Sequential" in owner.bases:
            frame.myself.items = list(given)
    return unknown()


def method(frame: Frame, node: ast.Call, base: Value, name: str, given: Sequence[Value], options: Options) -> Value:
    """`base.name(...)`."""
    kind = base.kind
    if kind == "instance":
        return _object_method(frame, node, base, name, given, options)
    if kind == "layer":
        return layers.module_method(frame, node, base, name, given, options)
    if kind == "class":
        return _class_method(frame, node, base.data, name, given, options)
    if kind == "optim" or (kind == "unknown" and name in ("step", "zero_grad") and training.looks_like_optimizer(base)):
        return training.optimizer_method(frame, node, base, name)
    if kind == "external":
        return external_call(frame, node, f"{base.data}.{name}", given, options)
    if kind in ("seq", "dict", "array"):
        found = container_method(frame, node, base, name, given)
        return found if found is not None else unknown()
    if name == "backward":
        training.backward(
            frame, node, given[0] if given and base.kind != "tensor" and not base.nodes else base, options
        )
        return const(None)
    if kind == "unknown" and name == "to" and torch_ops.dtype_of(next(iter(given), None)):
        torch_ops.learn(base)
    likely = bool(base.nodes) or base.grad >= LIKELY
    if kind == "unknown" and (
        name in table().writes or name in table().evidence or (likely and name in table().operations)
    ):
        torch_ops.learn(base)
    if base.kind == "tensor":
        return tensor_method(frame, node, base, name, given, options)
    return _unknown_method(frame, node, base, name, given, options)


def _object_method(
    frame: Frame, node: ast.Call, base: Value, name: str, given: Sequence[Value], options: Options
) -> Value:
    owner: Class = base.data[0]
    held = frame.state.heap.get((base.data[1], name))
    if held is not None:
        return invoke(frame, node, held, given, options)
    function = owner.method(name)
    if function is not None:
        return _enter_object(frame, node, function, base, given, options)
    if owner.is_layer:
        return layers.module_method(frame, node, base, name, given, options)
    return opaque(frame, node, name, given, options)


def _class_method(
    frame: Frame, node: ast.Call, owner: Class, name: str, given: Sequence[Value], options: Options
) -> Value:
    if name == "apply" and owner.is_function:
        return layers.custom_function(frame, node, owner, given)
    function = owner.method(name)
    if function is None:
        return opaque(frame, node, name, given, options)
    if function.static or not given or given[0].kind != "instance":
        return enter(frame, node, function, None if function.static else Value("class", data=owner), given, options)
    return enter(frame, node, function, given[0], given[1:], options)


def _unknown_method(
    frame: Frame, node: ast.Call, base: Value, name: str, given: Sequence[Value], options: Options
) -> Value:
    if name in (
        "parameters",
        "named_parameters",
        "buffers",
        "named_buffers",
        "train",
        "eval",
        "zero_grad",
        "state_dict",
        "modules",
        "children",
    ):
        return layers.module_method(frame, node, base, name, given, options)
    if name in ("append", "extend", "add", "insert") and not base.nodes:
        base.kind, base.items = "seq", []
        found = container_method(frame, node, base, name, given)
        return found if found is not None else unknown()
    if name in ("flatten", "squeeze", "view", "reshape"):
        same = base.copy()
        same.facts = {"shape": numerics.shape(name, [base, *given])}
        return same
    if name in ("half", "bfloat16") and not given:
        narrow = unknown(base.name)
        narrow.dtype, narrow.grad, narrow.nodes = "half" if name == "half" else "float", base.grad, base.nodes
        return narrow
    if name == "numpy":
        return torch_ops.alias_array(base, copied="force" in options)
    if name == "item" and base.nodes:
        return tensor_method(frame, node, torch_ops.learn(base), name, given, options)
    member = unknown_member(frame, base, name)
    if member.kind != "unknown":
        return invoke(frame, node, member, given, options)
    result = opaque(frame, node, f"{base.name}.{name}", given, options)
    if base.nodes:
        result.nodes = merge(result.nodes, (frame.node("call", node, base.nodes),))
        result.grad = max(result.grad, base.grad)
    elif _may_be_forward(frame, base, name) and (given or options):
        before, frame.modules = frame.modules, (*frame.modules, base.name)
        result.nodes = (frame.node("call", node, result.nodes, name),)
        frame.modules = before
    return result


_SETTING_UP = (
    "prepare", "setup", "get", "create", "build", "make", "load", "init", "compile", "wrap", "unwrap", "register",
    "from_",
)  # fmt: skip
_PLAIN = frozenset(
    {name for kind in (list, dict, str, set) for name in dir(kind)} | {"read", "write", "to_dict", "numpy"}
)


def _may_be_forward(frame: Frame, base: Value, name: str) -> bool:
    """Whether `base.name(...)` on an unknown base may run a module."""
    return (
        bool(base.name)
        and base.name != "cls"
        and frame.state.grad_on
        and name not in _PLAIN
        and not name.startswith(_SETTING_UP)
        and name not in table().operations
    )


def globally(frame: Frame, name: str) -> Value:
    """A name of the module: a function, a class, an import, a constant."""
    module, run = frame.function.module, frame.run
    held = run.variable(name) if module is run.module else None
    if held is not None:
        return held
    if name in module.functions:
        return Value("function", data=(module.functions[name], None), name=name)
    if name in module.classes:
        return Value("class", data=module.classes[name], name=name)
    if name in module.relative:
        found = run.resolve(module, name)
        if isinstance(found, Function):
            return Value("function", data=(found, None), name=name)
        if isinstance(found, Class):
            return Value("class", data=found, name=name)
    if name in module.imports or name in module.relative:
        return Value("external", data=module.imports.get(name, f".{name}"), name=name)
    if name in module.constants:
        held = run.globals.get((id(module), name))
        if held is None:
            node = module.constants[name]
            simple = isinstance(node, ast.Constant | ast.UnaryOp | ast.BinOp | ast.Tuple | ast.Attribute) or (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float"
            )
            held = run.globals[(id(module), name)] = frame.evaluate(node) if simple else unknown(name)
        return held
    if name in BUILTINS:
        return Value("external", data=f"builtins.{name}", name=name)
    return unknown(name)


def member(frame: Frame, node: ast.Attribute, base: Value, name: str) -> Value:
    """An attribute of an object of a class that can be read."""
    owner, identity = base.data
    held = frame.state.heap.get((identity, name))
    if held is not None:
        return held
    expression = owner.constant(name)
    if expression is not None:
        value = frame.isolated(owner.module).evaluate(expression)
        if value.kind in ("const", "external", "class"):
            return value
    function = owner.method(name)
    if function is not None:
        if function.is_property:
            place = ast.copy_location(ast.Call(node, [], []), node)
            return enter(frame, place, function, base, [], {})
        return Value("function", data=(function, base), name=name)
    found = unknown(name)
    frame.state.put(identity, name, found)
    return found


def layer_member(frame: Frame, base: Value, name: str) -> Value:
    """An attribute of a layer: its weight, its bias, a buffer."""
    return layers.member(frame, base, name)


def unknown_member(frame: Frame, base: Value, name: str) -> Value:
    """An attribute of something unknown: what the file stores elsewhere under this name, if anything."""
    store = min(base.stores, default=0)
    held = frame.state.heap.get((store, name))
    if held is not None:
        return held
    found = frame.run.recall(name, frame.state) if not base.nodes else None
    if found is None:
        found = unknown(name)
        found.nodes, found.grad, found.cut = base.nodes, base.grad, base.cut
        if name in ("weight", "bias"):
            found.kind, found.grad, found.facts = "tensor", LIKELY, {"owner": base.name}
    if store:
        frame.state.put(store, name, found)
    return found


__all__ = ["call", "globally", "invoke", "member"]
