"""Training steps: optimizers, backward, and what happens to parameters and graphs between them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

from gradgate.scan.frame import BUDGET, Frame, Report
from gradgate.scan.state import Step, reach, step_of
from gradgate.scan.values import (
    LIKELY,
    MAYBE,
    NO,
    YES,
    Cut,
    Line,
    Node,
    Value,
    const,
    merge,
    nodes_in,
    tensor,
    tensors_in,
    unknown,
)

Options = dict[str, Value]
Invoke = Callable[[Frame, ast.Call, Value, Sequence[Value], Options], Value]
_NO_MODEL = ("loss", "crit", "objective")


def optimizer(frame: Frame, given: Sequence[Value], options: Options) -> Value:
    """An optimizer over the parameters of modules whose names it remembers."""
    source = given[0] if given else options.get("params") or unknown()
    names: set[str] = set()
    _names_in(source, names, 4)
    value = Value("optim", data=frozenset(name for name in names if name))
    value.facts = {"made": True}
    frame.run.optimize(frame, value.data)
    return value


def _names_in(value: Value, names: set[str], depth: int) -> None:
    if value.kind == "tensor":
        names.add(str(value.facts.get("owner", value.name)))
    elif value.name and value.kind == "seq":
        names.add(value.name)
    if value.items and depth:
        for item in value.items:
            _names_in(item, names, depth - 1)


def looks_like_optimizer(value: Value) -> bool:
    """Whether an unknown value is named as an optimizer is."""
    word = value.name.lower()
    return "opt" in word or word in ("trainer", "solver")


def optimizer_method(frame: Frame, node: ast.Call, base: Value, name: str) -> Value:
    """`step` and `zero_grad`."""
    if name == "step":
        names = base.data if base.kind == "optim" else frozenset()
        frame.run.limit = BUDGET
        if names or _only_optimizer(frame, base):
            frame.state.steps = (*frame.state.steps[-5:], step_of(frame.line(node), names, "step"))
    return const(None)


def _only_optimizer(frame: Frame, base: Value) -> bool:
    """Whether the function speaks of no second optimizer: then this one is taken to hold every parameter."""
    named = {
        word
        for word in frame.function.calls
        if "opt" in word.lower() and "option" not in word.lower() and "optional" not in word.lower()
    }
    return named <= {base.name, "optimizer", "optim", "opt"} and len(named) <= 2


def parameter_write(frame: Frame, node: ast.AST, target: Value, op: str) -> None:
    """Code writes a parameter: to a pending backward this is what an optimizer's step is."""
    owner = target.facts.get("owner")
    if owner is None:
        return
    how = "quiet" if frame.quiet else "data" if target.silent else "inplace"
    names = frozenset((str(owner),)) if owner else frozenset()
    frame.state.steps = (*frame.state.steps[-5:], step_of(frame.line(node), names, how))


def backward(frame: Frame, node: ast.Call, value: Value, options: Options) -> None:
    """`loss.backward()`: everything that was saved for it is read now."""
    state = frame.state
    frame.run.limit = BUDGET
    nodes = state.nodes(value) if value.kind != "seq" else nodes_in(value)
    frame.run.escaped.extend(nodes)
    seen = reach(nodes)
    certain = reach(nodes, through_opaque=False)
    gone = set().union(*(nodes for nodes, _ in state.freed))  # of these the backward fails before it looks at versions
    _changed_parameters(frame, certain - gone)
    _freed(frame, node, certain)
    frame.run.check_cuts(value, nodes)
    if not _retains(options):
        if nodes:
            state.freed = (*state.freed[-3:], (frozenset(certain), frame.line(node)))
        kept = state.table("saves")
        for store, saves in list(kept.items()):
            left = tuple(save for save in saves if nodes and save.node not in seen)
            if left:
                kept[store] = left
            else:
                del kept[store]


def _retains(options: Options) -> bool:
    keep = options.get("retain_graph") or options.get("create_graph")
    return keep is not None and not (keep.kind == "const" and not keep.data)


def _changed_parameters(frame: Frame, nodes: set[Node]) -> None:
    for step in frame.state.steps:
        used = [node for node in nodes if node.serial < step.serial and node.trained and _matches(step, node)]
        if not used:
            continue
        first = max(used, key=lambda node: node.serial)
        code, kind = {"step": ("GG102", "optimizer_step_between"), "inplace": ("GG102", "optimizer_step_between")}.get(
            step.how, ("GG103", "silent_data_write")
        )
        frame.run.report(
            Report(code, kind, step.line, first.line, step.how, (("module", first.trained),), sure=bool(step.names))
        )


def _matches(step: Step, node: Node) -> bool:
    if step.names:
        return any(name in step.names for name in node.modules)
    return not any(word in node.trained.lower() for word in _NO_MODEL)


def _freed(frame: Frame, node: ast.Call, nodes: set[Node]) -> None:
    for gone, line in frame.state.freed:
        old = nodes & gone
        if any(part.keeps for part in old):
            newest = max((part for part in old if part.keeps), key=lambda part: part.serial)
            bridge = _bridge(nodes, old)
            culprit = bridge.handed or frame.line(node)
            frame.run.report(
                Report("GG209", "freed_graph", culprit, newest.line, "freed", (("first", str(line.number)),))
            )
            return


def _bridge(nodes: set[Node], old: set[Node]) -> Node:
    """The node at which the new graph meets the old one."""
    for node in sorted(nodes - old, key=lambda part: -part.serial):
        for parent in node.parents:
            if parent.handed is not None and parent in old:
                return parent
    return max(old, key=lambda part: part.serial)


def gradients(frame: Frame, node: ast.Call, given: Sequence[Value], options: Options) -> Value:
    """`torch.autograd.grad(...)`: without create_graph its result is a number to autograd."""
    outputs = given[0] if given else options.get("outputs") or unknown()
    nodes = merge(frame.state.nodes(outputs), nodes_in(outputs))
    frame.run.limit = BUDGET
    frame.run.escaped.extend(nodes)
    keep = options.get("create_graph")
    result = tensor()
    if keep is not None and keep.kind == "const" and keep.data:
        result.grad, result.nodes = YES, (frame.node("grad", node, nodes),)
    elif (keep is None or keep.kind == "const" or keep.facts.get("default") is False) and frame.state.grad_on:
        result.cut = (Cut(frame.line(node), "create_graph", nodes),)
    elif keep is not None:
        result.grad, result.nodes = MAYBE, (frame.node("grad", node, nodes),)
    found = Value("seq", items=[result])
    found.facts = {"any": True}
    return found


def checkpoint(frame: Frame, node: ast.Call, given: Sequence[Value], options: Options, invoke: Invoke) -> Value:
    """`checkpoint(function, *inputs)`: the reentrant kind gives no gradient where no input requires grad."""
    if not given:
        return unknown()
    reentrant = options.pop("use_reentrant", None)
    for name in ("preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop"):
        options.pop(name, None)
    result = invoke(frame, node, given[0], given[1:], options)
    maybe = reentrant is not None and not (reentrant.kind == "const" and not reentrant.data)
    inputs = [part for value in given[1:] for part in (value, *tensors_in(value)) if part.kind == "tensor"]
    frozen = [value for value in inputs if value.facts.get("frozen")]
    if maybe and frozen and all(frame.state.grad(value) == NO for value in inputs) and frame.state.grad_on:
        frame.run.report(Report("GG202", "graph_cut", frame.line(node), None, "reentrant", ()))
    return result


__all__ = ["LIKELY", "Line", "backward", "checkpoint", "gradients", "optimizer", "optimizer_method", "parameter_write"]
