"""Expressions: what each is worth to the scanner."""

from __future__ import annotations

import ast
from collections.abc import Callable

from gradgate.scan import calls, external_calls, numerics, torch_ops
from gradgate.scan.frame import MOST_COST, Frame, OverBudgetError
from gradgate.scan.torch_ops import index_view
from gradgate.scan.values import NO, YES, Value, const, join, sequence, tensor, unknown


def evaluate(frame: Frame, node: ast.expr) -> Value:
    """The value of an expression, with what computing it does to the state."""
    run = frame.run
    run.cost += 1
    if run.cost > MOST_COST:
        raise OverBudgetError
    handler = _HANDLERS.get(type(node))
    return handler(frame, node) if handler is not None else unknown()


def truth(frame: Frame, node: ast.expr) -> bool | None:
    """Whether a condition holds; None where that depends."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = truth(frame, node.operand)
        return None if inner is None else not inner
    if isinstance(node, ast.BoolOp):
        found = [truth(frame, part) for part in node.values]
        decisive = isinstance(node.op, ast.Or)
        if decisive in found:
            return decisive
        return None if None in found else not decisive
    value = evaluate(frame, node)
    if value.kind == "const":
        return bool(value.data)
    if frame.last_turn is not None and _asks_for_last(node):
        frame.asked_for_last = True
        return not frame.last_turn
    return None


def _asks_for_last(node: ast.expr) -> bool:
    """`i < count - 1`, `i != len(layers) - 1`: true in all turns of a loop but the last."""
    if not (isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.NotEq)):
        return False
    bound = node.comparators[0]
    return (
        isinstance(node.left, ast.Name)
        and isinstance(bound, ast.BinOp)
        and isinstance(bound.op, ast.Sub)
        and isinstance(bound.right, ast.Constant)
        and bound.right.value == 1
    )


def assign(frame: Frame, target: ast.expr, value: Value) -> None:
    """Bind a value to a name, an attribute, an item or a tuple of them."""
    if isinstance(target, ast.Name):
        _bind(frame, target.id, value)
    elif isinstance(target, ast.Attribute):
        _set_attribute(frame, target, value)
    elif isinstance(target, ast.Subscript):
        base = evaluate(frame, target.value)
        evaluate(frame, target.slice)
        set_item(frame, target, base, value)
    elif isinstance(target, ast.Tuple | ast.List):
        for part, item in zip(target.elts, unpack(value, target.elts), strict=True):
            assign(frame, part.value if isinstance(part, ast.Starred) else part, item)


def _bind(frame: Frame, name: str, value: Value) -> None:
    if not value.name and value.kind in ("tensor", "unknown", "layer", "instance", "optim"):
        value.name = name
    if value.kind == "const" and value.data is None and name in frame.function.module.imports:
        return  # `torch = None`, where the import failed
    frame.env[name] = value
    if name in frame.function.rebinds and frame.run.top is not None:
        frame.run.top.env[name] = value


def unpack(value: Value, targets: list[ast.expr]) -> list[Value]:
    """The values that a tuple of targets receives."""
    count = len(targets)
    starred = next((at for at, part in enumerate(targets) if isinstance(part, ast.Starred)), None)
    if value.items is not None and starred is None and len(value.items) == count:
        return value.items
    if value.items is not None and starred is not None and len(value.items) >= count - 1:
        after = count - starred - 1
        middle = value.items[starred : len(value.items) - after]
        return [*value.items[:starred], sequence(middle), *value.items[len(value.items) - after :]]
    return [element(value, at) for at in range(count)]


def element(value: Value, at: int | None = None) -> Value:
    """One of the values that a value holds; of an unknown position, any of them."""
    if value.kind in ("seq", "dict"):
        items = value.items or []
        if at is not None and at < len(items):
            return items[at]
        if items:
            found = items[0]
            for item in items[1:]:
                found = join(found, item)
            return found
        return unknown()
    if value.kind in ("tensor", "unknown"):
        part = value.copy()
        part.name = ""
        if value.kind == "tensor":
            part.view = value.view if value.view == "detached" else "many"
        else:
            part.stores = unknown().stores
        return part
    return unknown()


def _set_attribute(frame: Frame, target: ast.Attribute, value: Value) -> None:
    base = evaluate(frame, target.value)
    if base.kind == "instance":
        if value.kind in ("tensor", "unknown", "seq") and frame.function.name != "__init__":
            line = frame.line(target)
            for node in frame.nodes_of(value):
                node.handed, node.kept_as = line, target.attr
            frame.escape(value)
        elif value.kind == "tensor":
            value.facts = {**value.facts, "persistent": target.attr}
        if value.kind == "layer" and frame.function.name != "__init__":
            frame.run.replace_layer(frame, base, target)
        frame.state.put(base.data[1], target.attr, value)
        if not value.name and value.kind in ("layer", "instance", "unknown", "tensor", "optim"):
            value.name = target.attr
        return
    if base.kind == "tensor" and target.attr == "requires_grad" and value.kind == "const":
        base.leaf, base.grad = bool(value.data), YES if value.data else NO
        return
    if frame.given and isinstance(target.value, ast.Name) and target.value.id == frame.function.parameters[0]:
        frame.keep_on_ctx(target, value)
    frame.escape(value)
    if base.kind == "tensor" and target.attr == "data":
        return  # the tensor gets other memory; what was saved stays as it is
    if base.kind in ("unknown", "layer"):
        if value.kind == "layer":
            frame.run.replace_layer(frame, base, target)
        for store in base.stores:
            frame.state.put(store, target.attr, value)
        frame.run.field(target.attr, value, frame.state)


def set_item(frame: Frame, target: ast.Subscript, base: Value, value: Value) -> None:
    """`base[...] = value`: a write where base is a tensor or an array, one item more where it is a container."""
    if base.kind == "tensor" or (base.kind == "unknown" and base.silent):
        view = index_view(frame, base, target)
        frame.write(view, target, "inplace", "index assignment", value)
        frame.leaf_write(view, target, "index assignment")
        frame.persist(base, target, value)
    elif base.kind in ("seq", "dict"):
        base.items = [*(base.items or [])[:15], value]
    elif base.kind == "array":
        frame.write(base, target, "array", "index assignment")
    else:
        frame.escape(value)


def _constant(frame: Frame, node: ast.Constant) -> Value:
    return const(node.value)


def _name(frame: Frame, node: ast.Name) -> Value:
    name = node.id
    found = frame.env.get(name)
    if found is None and frame.outer is not None:
        found = frame.outer.get(name)
    if found is not None:
        if "clobbered" in found.facts:
            frame.run.reread(found)
        return found
    return calls.globally(frame, name)


def _attribute(frame: Frame, node: ast.Attribute) -> Value:
    root: ast.expr = node
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Name) and root.id not in frame.env:
        dotted = frame.function.module.dotted(node)
        if dotted:
            return external_calls.external(frame, dotted)
    base = evaluate(frame, node.value)
    return attribute(frame, node, base)


def attribute(frame: Frame, node: ast.Attribute, base: Value) -> Value:
    """`base.name`."""
    name, kind = node.attr, base.kind
    if kind == "instance":
        return calls.member(frame, node, base, name)
    if kind == "layer":
        return calls.layer_member(frame, base, name)
    if kind in ("tensor", "unknown"):
        if name == "data":
            return torch_ops.data(base)
        if name == "grad":
            return _grad_of(frame, base)
        if name in ("T", "mT", "H", "real") and kind == "tensor":
            return torch_ops.apply(frame, node, "transpose", [base], {})
        if kind == "tensor" and name in ("shape", "dtype", "device", "ndim"):
            return unknown(name)
        return calls.unknown_member(frame, base, name)
    if kind == "external":
        return external_calls.external(frame, f"{base.data}.{name}")
    if kind == "class":
        value = base.data.constant(name)
        if value is not None:
            return evaluate(frame, value)
        method = base.data.method(name)
        if method is not None:
            return Value("function", data=(method, None), name=name)
    return unknown(name)


def _grad_of(frame: Frame, base: Value) -> Value:
    store = min(base.stores, default=0)
    found = frame.state.heap.get((store, "grad"))
    if found is None:
        found = tensor(name=f"{base.name}.grad")
        frame.state.put(store, "grad", found)
        found.facts = {"gradient": base.name}
    return found


def _subscript(frame: Frame, node: ast.Subscript) -> Value:
    base = evaluate(frame, node.value)
    if base.kind == "tensor":
        evaluate(frame, node.slice)
        return index_view(frame, base, node)
    index = evaluate(frame, node.slice)
    if base.kind == "seq":
        if isinstance(node.slice, ast.Slice):
            return base
        if (
            index.kind == "const"
            and isinstance(index.data, int)
            and -len(base.items or []) <= index.data < len(base.items or [])
        ):
            return (base.items or [])[index.data]
        return element(base)
    if base.kind == "dict":
        return element(base)
    if base.kind == "array":
        return base.copy()
    if base.kind == "layer":
        children = base.items or []
        return element(Value("seq", items=children)) if children else unknown()
    part = unknown()
    part.stores, part.nodes, part.grad = base.stores, base.nodes, base.grad
    part.silent, part.view, part.name = base.silent, base.view, base.name
    return part


def _binary(frame: Frame, node: ast.BinOp) -> Value:
    left, right = evaluate(frame, node.left), evaluate(frame, node.right)
    if isinstance(node.op, ast.BitAnd | ast.BitOr | ast.BitXor):
        return _logical(left, right)
    return torch_ops.arithmetic(frame, node, type(node.op), left, right)


def _logical(left: Value, right: Value) -> Value:
    if not (left.is_tensor or right.is_tensor):
        return unknown()
    result = tensor()
    result.dtype = "bool"
    facts: dict[str, object] = {}
    for key in ("compares", "nan_of"):
        both = left.facts.get(key, frozenset()) | right.facts.get(key, frozenset())
        if both:
            facts[key] = both
    result.facts = facts
    result.cut = left.cut or right.cut
    return result


def _unary(frame: Frame, node: ast.UnaryOp) -> Value:
    value = evaluate(frame, node.operand)
    if value.kind == "const":
        if isinstance(node.op, ast.Not):
            return const(not value.data)
        if isinstance(value.data, int | float):
            return const(-value.data if isinstance(node.op, ast.USub) else value.data)
    if value.kind == "tensor":
        if isinstance(node.op, ast.USub):
            return torch_ops.apply(frame, node, "neg", [value], {})
        result = tensor()
        result.facts = {key: found for key, found in value.facts.items() if key in ("compares", "nan_of", "triangular")}
        result.cut = value.cut
        return result
    result = unknown()
    result.nodes, result.grad, result.cut = value.nodes, value.grad, value.cut
    return result


def _compare(frame: Frame, node: ast.Compare) -> Value:
    left = evaluate(frame, node.left)
    right = [evaluate(frame, part) for part in node.comparators]
    if len(right) == 1 and left.kind == "const" and right[0].kind == "const":
        decided = _decide(node.ops[0], left.data, right[0].data)
        if decided is not None:
            return const(decided)
    if (
        len(right) == 1
        and right[0].kind == "const"
        and right[0].data is None
        and left.kind in ("tensor", "instance", "layer", "seq")
    ):
        if left.kind != "tensor" or left.facts.get("made"):
            return const(isinstance(node.ops[0], ast.IsNot | ast.NotEq))
        return unknown()
    if isinstance(node.ops[0], ast.Is | ast.IsNot | ast.In | ast.NotIn):
        return unknown()
    return numerics.compare(frame, node, left, right)


def _decide(operator: ast.cmpop, left: object, right: object) -> bool | None:
    if isinstance(operator, ast.Is | ast.Eq):
        return left is right or (type(left) is type(right) and left == right)
    if isinstance(operator, ast.IsNot | ast.NotEq):
        return not (left is right or (type(left) is type(right) and left == right))
    if isinstance(left, int | float) and isinstance(right, int | float):
        if isinstance(operator, ast.Lt):
            return left < right
        if isinstance(operator, ast.Gt):
            return left > right
    return None


def _boolean(frame: Frame, node: ast.BoolOp) -> Value:
    values = [evaluate(frame, part) for part in node.values]
    found = values[0]
    for value in values[1:]:
        found = join(found, value)
    return found


def _conditional(frame: Frame, node: ast.IfExp) -> Value:
    decided = truth(frame, node.test)
    if decided is not None:
        return evaluate(frame, node.body if decided else node.orelse)
    return join(evaluate(frame, node.body), evaluate(frame, node.orelse))


def _sequence(frame: Frame, node: ast.Tuple | ast.List | ast.Set) -> Value:
    items: list[Value] = []
    for part in node.elts[:24]:
        if isinstance(part, ast.Starred):
            value = evaluate(frame, part.value)
            items += value.items[:16] if value.items is not None and value.kind == "seq" else [element(value)]
        else:
            items.append(evaluate(frame, part))
    return sequence(items)


def _dict(frame: Frame, node: ast.Dict) -> Value:
    values = [evaluate(frame, part) for part in node.values[:24]]
    for key in node.keys[:24]:
        if key is not None and not isinstance(key, ast.Constant):
            evaluate(frame, key)
    return Value("dict", items=values)


def _comprehension(frame: Frame, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Value:
    return comprehend(frame, node.generators, node.elt)


def comprehend(frame: Frame, generators: list[ast.comprehension], result: ast.expr) -> Value:
    """The values of a comprehension: each item of a short sequence, else two turns."""
    before = frame.env
    frame.env = dict(before)
    items: list[Value] = []
    sources = [evaluate(frame, generators[0].iter)]
    first = sources[0]
    count = min(len(first.items), 4) if first.kind == "seq" and first.items else 2
    frame.loops += 1
    for turn in range(count if frame.loops <= 2 else 1):
        assign(frame, generators[0].target, element(first, turn))
        for generator in generators[1:]:
            assign(frame, generator.target, element(evaluate(frame, generator.iter)))
        for test in (test for generator in generators for test in generator.ifs):
            evaluate(frame, test)
        items.append(evaluate(frame, result))
    frame.loops -= 1
    frame.env = before
    found = sequence(items)
    if not (first.kind == "seq" and first.items and len(first.items) == count):
        found.facts = {"any": True}
    return found


def _dict_comprehension(frame: Frame, node: ast.DictComp) -> Value:
    found = comprehend(frame, node.generators, node.value)
    return Value("dict", items=found.items)


def _lambda(frame: Frame, node: ast.Lambda) -> Value:
    value = Value("function", data=(frame.function.module.anonymous(node), None))
    value.facts = {"outer": frame.env}
    return value


def _walrus(frame: Frame, node: ast.NamedExpr) -> Value:
    value = evaluate(frame, node.value)
    frame.env[node.target.id] = value
    return value


def _inner(frame: Frame, node: ast.Await | ast.Starred | ast.FormattedValue) -> Value:
    return evaluate(frame, node.value)


def _yield(frame: Frame, node: ast.Yield | ast.YieldFrom) -> Value:
    if node.value is not None:
        value = evaluate(frame, node.value)
        frame.escape(value)
        frame.yields.append(value)
    return unknown()


def _slice(frame: Frame, node: ast.Slice) -> Value:
    for part in (node.lower, node.upper, node.step):
        if part is not None:
            evaluate(frame, part)
    return unknown()


def _call(frame: Frame, node: ast.Call) -> Value:
    return calls.call(frame, node)


_HANDLERS: dict[type, Callable[..., Value]] = {
    ast.Constant: _constant, ast.Name: _name, ast.Attribute: _attribute, ast.Subscript: _subscript, ast.BinOp: _binary,
    ast.UnaryOp: _unary, ast.Compare: _compare, ast.BoolOp: _boolean, ast.IfExp: _conditional, ast.Tuple: _sequence,
    ast.List: _sequence, ast.Set: _sequence, ast.Dict: _dict, ast.ListComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.SetComp: _comprehension, ast.DictComp: _dict_comprehension, ast.Lambda: _lambda, ast.NamedExpr: _walrus,
    ast.Await: _inner, ast.Starred: _inner, ast.Yield: _yield, ast.YieldFrom: _yield, ast.Slice: _slice,
    ast.Call: _call,
}  # fmt: skip
