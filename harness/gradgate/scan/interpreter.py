"""The flow analysis of one file: every function that holds something of interest is run abstractly, as a root."""

from __future__ import annotations

import ast
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gradgate.scan import calls
from gradgate.scan.callers import Callers
from gradgate.scan.evidence import treated_as_tensors
from gradgate.scan.expressions import evaluate
from gradgate.scan.flow import execute
from gradgate.scan.frame import BUDGET, IDLE_BUDGET, Frame, OverBudgetError, Report, Run
from gradgate.scan.modules import FORWARDS, Class, Function, Module, is_tensor_annotation
from gradgate.scan.nodes import walk
from gradgate.scan.state import Hazard, State, reach
from gradgate.scan.torch_ops import learn
from gradgate.scan.values import LIKELY, MAYBE, NO, Value, const, fresh, tensors_in, unknown

MOST_SUPPLIERS = 12
Resolve = Callable[[Module, str], Function | Class | None]


def analyse(module: Module, resolve: Resolve) -> list[Report]:
    """Run every root of a file.

    Args:
        module: the parsed file.
        resolve: finds an imported function or class in the scanned tree.

    Returns:
        The faults, one for each code and line.
    """
    run = Run(module, resolve, evaluate, execute, calls.invoke)
    roots = list(_roots(module, resolve))
    asked: list[tuple[Function, set[str]]] = []
    quiet = _without_grad(module)
    for function in roots:
        if function in quiet:
            continue
        run.wanted = set()
        _root(run, function)
        asked.append((function, run.wanted))
    for function in _suppliers(module, set().union(*(wanted for _, wanted in asked)) - set(run.fields), roots):
        _root(run, function)
    for function, wanted in asked:
        if any(name in run.fields for name in wanted):
            _root(run, function)
    return list(run.reports.values())


def _calls_hot_import(module: Module, function: Function, resolve: Resolve) -> bool:
    """Whether a function calls one of another file of the tree that holds an interesting expression."""
    for name in function.calls:
        if name in module.relative and not name[:1].isupper():
            found = resolve(module, name)
            if isinstance(found, Function) and found.hot:
                return True
    return False


def _roots(module: Module, resolve: Resolve) -> list[Function]:
    """Functions from which an interesting expression can be reached, in the file's order; its top level comes first."""
    imported = {function for function in module.scopes if _calls_hot_import(module, function, resolve)}
    hot = imported | {function for function in module.scopes if function.hot or _is_forward(function)}
    touching = imported | {function for function in module.scopes if function.touches or _is_forward(function)}
    if not hot or not touching:
        return []
    callers = Callers(module)
    hot_too, touching_too = callers.reaching(hot), callers.reaching(touching)
    ways = Counter(caller for function in hot_too | touching_too for caller in callers.of(function))
    found = [
        function
        for function in module.scopes
        if function in hot_too and function in touching_too
        and (function in hot or function in touching or ways[function] > 1)
    ]  # fmt: skip
    if module.body.sets_grad and found and module.body not in found:
        found.insert(0, module.body)  # what it leaves gradient at holds in the functions
    return found


def _is_forward(function: Function) -> bool:
    return function.name == "forward" and function.owner is not None and function.owner.is_layer


def _suppliers(module: Module, wanted: set[str], roots: list[Function]) -> list[Function]:
    """Functions that store something under a name that a root asked for, and are no roots themselves."""
    direct = [function for name in sorted(wanted) for function in module.keywords.get(name, ())]
    names = {function.name for function in direct}
    callers = [function for function in module.every if function.calls & names and function not in direct]
    found: list[Function] = []
    complete = [function for function in direct if not _needs_arguments(function)]
    for function in (*complete, *callers, *direct):
        if function not in roots and function not in found:
            found.append(function)
    return found[:MOST_SUPPLIERS]


def _without_grad(module: Module) -> set[Function]:
    """Functions that only run with gradient off, as far as the file shows.

    Those are methods of a custom autograd.Function and of optimizers, and what is only called from such places.
    """
    off = {function for function in module.every if function.no_grad or _is_internal(function)}
    if {"optim", "optimizer", "optimizers"} & set(Path(module.path).parts[-3:-1]):
        return {function for function in module.every if not function.no_grad}
    optimizers = [owner for owner in module.classes.values() if owner.is_optimizer]
    if optimizers:
        off |= {function for function in module.every if function.owner is None or function.owner in optimizers}
    callers: dict[str, set[Function]] = {}
    for function in module.every:
        for name in function.calls:
            callers.setdefault(name, set()).add(function)
    changed = True
    while changed:
        changed = False
        for function in module.every:
            known = callers.get(function.name, set()) - {function}
            if function not in off and known and known <= off and not _is_exported(module, function):
                off.add(function)
                changed = True
    return {function for function in off if not function.no_grad and not _is_backward_or_forward(function)}


def _is_called_without_grad(module: Module, function: Function) -> bool:
    """Whether the file calls a function, and only inside `with torch.no_grad():` or functions under it."""
    sites = 0
    for caller in module.scopes:
        if function.name not in caller.calls or caller is function:
            continue
        quiet: set[int] = set()
        for node in walk(caller.node):
            if isinstance(node, ast.With) and any(_is_no_grad(module, item.context_expr) for item in node.items):
                quiet.update(id(part) for part in walk(node))
        for node in walk(caller.node):
            if isinstance(node, ast.Call) and _called(node) == function.name:
                sites += 1
                if not caller.no_grad and id(node) not in quiet:
                    return False
    return sites > 0


_INFERENCE = (
    "post_process",
    "postprocess",
    "preprocess",
    "visuali",
    "plot",
    "draw",
    "nms",
    "metric",
    "predict",
    "infer",
    "decode_box",
)


def _is_inference(function: Function) -> bool:
    """Whether a function's name says that nothing is trained in it."""
    owner = function.owner.name.lower() if function.owner is not None else ""
    return any(word in function.name.lower() for word in _INFERENCE) or "processor" in owner


def _is_no_grad(module: Module, node: ast.expr) -> bool:
    return module.dotted(node.func if isinstance(node, ast.Call) else node).endswith(("no_grad", "inference_mode"))


def _called(node: ast.Call) -> str:
    function = node.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_exported(module: Module, function: Function) -> bool:
    return function.name in module.strings or function.name in FORWARDS


def _is_internal(function: Function) -> bool:
    owner = function.owner
    return owner is not None and owner.is_function


def _is_backward_or_forward(function: Function) -> bool:
    """A custom function's own forward is looked at, with gradient off, for what it keeps and writes."""
    return _is_internal(function) and function.name == "forward"


def _needs_arguments(function: Function) -> bool:
    given = function.node.args
    return len(given.posonlyargs) + len(given.args) > len(given.defaults)


def _root(run: Run, function: Function) -> None:
    if function is run.module.body:
        _top_level(run)
        return
    owner = function.owner
    frame = _begin(run, function)
    try:
        if owner is not None and not function.static:
            frame.myself = _instance(run, owner, frame, function)
        _bind_root(frame, function)
        frame.state.grad_on = run.grad_on and not function.no_grad and not _is_internal(function)
        result = frame.run_body()
        if _is_called_again(function):
            result = _again(run, frame, result)
        _finish(run, frame, result)
    except (OverBudgetError, RecursionError):
        return


def _begin(run: Run, function: Function) -> Frame:
    run.cost, run.hazards, run.escaped, run.entered, run.optimized = 0, [], [], [function], set()
    run.limit, run.undifferentiated = IDLE_BUDGET, False
    run.is_complete = function.owner is None and not _needs_arguments(function)
    return Frame(run, function, {}, State(run.heap))


def _top_level(run: Run) -> None:
    """Run the file as a script; what is too long for the budget is looked at as far as it got."""
    frame = _begin(run, run.module.body)
    run.top, frame.env["__name__"] = frame, const("__main__")
    if run.module.body.touches:
        run.limit = BUDGET
    with contextlib.suppress(OverBudgetError, RecursionError):
        run.execute(frame, run.module.tree.body)
    run.top = None
    run.share(frame)
    with contextlib.suppress(RecursionError):
        _finish(run, frame, const(None))


def _is_called_again(function: Function) -> bool:
    """Whether a second call may meet what the first left on the module."""
    owner = function.owner
    if owner is None or not owner.is_layer or function.name != "forward":
        return False
    return any(
        (entry.hot or entry.stores) and name not in ("__init__", "reset_parameters")
        for parent in owner.lineage()
        for name, entry in parent.methods.items()
    )


def _again(run: Run, frame: Frame, first: Value) -> Value:
    """Call a forward once more before any backward: on other inputs, and the same object."""
    if run.cost > BUDGET // 2 or frame.state.dead:
        return first
    frontier = fresh()
    frame.escape(first)
    second = Frame(run, frame.function, {}, frame.state, frame.myself)
    _bind_root(second, frame.function)
    second.state.grad_on = run.grad_on and not frame.function.no_grad
    before = len(run.hazards)
    result = second.run_body()
    frame.state = second.state
    run.hazards[before:] = [hazard for hazard in run.hazards[before:] if hazard.save.what != "its weight"]
    for node in reach(frame.nodes_of(result), through_opaque=False):
        if node.serial < frontier and node.kept_as and not _is_integer(node.kept_as):
            words = (("name", node.kept_as),)
            run.report(Report("GG209", "freed_graph", node.handed or node.line, node.line, "carried", words))
    return first


def _instance(run: Run, owner: Class, frame: Frame, function: Function) -> Value:
    """An object of the method's class, as its `__init__` leaves it."""
    value = Value("instance", data=(owner, fresh()))
    first = owner.method("__init__")
    if first is not None and first is not function and first.module is run.module:
        place = ast.copy_location(ast.Call(ast.Name("__init__", ast.Load()), [], []), first.node)
        frame.state.grad_on = True
        calls.enter(frame, place, first, value, [], {})
        run.cost = run.cost // 4
    return value


def _bind_root(frame: Frame, function: Function) -> None:
    parameters = function.node.args
    in_forward = function.owner is not None and function.owner.is_layer and function.name in FORWARDS
    names = [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs]
    positional = [*parameters.posonlyargs, *parameters.args]
    defaults = {
        part.arg: value for part, value in zip(reversed(positional), reversed(parameters.defaults), strict=False)
    }
    for at, argument in enumerate(names):
        if at == 0 and frame.myself is not None:
            frame.env[argument.arg] = frame.myself
            continue
        grad = NO if _is_integer(argument.arg) else LIKELY if in_forward else MAYBE
        value = unknown(argument.arg, grad)
        default = defaults.get(argument.arg)
        if isinstance(default, ast.Constant):
            if "inplace" in argument.arg and not default.value:
                frame.env[argument.arg] = const(default.value)  # whoever asks for the write answers for it
                continue
            value.facts = {"default": default.value}
        if is_tensor_annotation(argument.annotation):
            value.kind = "tensor"
        frame.env[argument.arg] = value
    for name in treated_as_tensors(function):
        if frame.env.get(name) is not frame.myself:
            learn(frame.env[name])
    if _is_backward_or_forward(function):
        for name, value in frame.env.items():
            for store in value.stores:
                frame.given[store] = name
    if parameters.vararg is not None:
        frame.env[parameters.vararg.arg] = unknown(parameters.vararg.arg, MAYBE)
    if parameters.kwarg is not None:
        frame.env[parameters.kwarg.arg] = unknown(parameters.kwarg.arg)


def _is_integer(name: str) -> bool:
    """Whether an argument is named as indices, tokens or masks are, which carry no gradient."""
    return name.endswith(("ids", "idx", "index", "indices", "labels", "tokens", "mask", "lengths", "positions"))


def _finish(run: Run, frame: Frame, result: Value) -> None:
    """What the function returns or leaves on objects may meet a backward: say which hazards that makes faults."""
    frame.escape(result)
    for module, layer, line in frame.state.replaced:
        run.report(Report("GG201", "missing_grad", line, None, "replaced", (("module", module), ("layer", layer))))
    for value in [result, *tensors_in(result)]:
        run.check_cuts(value, frame.state.nodes(value))
    if run.hazards:
        seen = reach(tuple(run.escaped))
        found = [hazard for hazard in run.hazards if hazard.save.node in seen]
        doubtful = any(hazard.save.grad <= MAYBE for hazard in found)
        off = doubtful and (
            _is_inference(frame.function) or run.undifferentiated or _is_called_without_grad(run.module, frame.function)
        )
        for hazard in found:
            if hazard.save.grad > MAYBE or not (off or hazard.scratch):
                _confirmed(run, hazard)


def _confirmed(run: Run, hazard: Hazard) -> None:
    save = hazard.save
    if hazard.how in ("inplace",) and not save.unchecked:
        code, kind = "GG101", "inplace_saved"
    elif save.unchecked:
        code, kind = "GG107", "custom_function"
    elif hazard.how in ("data", "quiet"):
        code, kind = "GG103", "silent_data_write"
    else:
        code, kind = "GG104", "silent_alias_write"
    words = (("name", hazard.name or "a tensor"), ("op", hazard.op), ("saver", save.node.op), ("what", save.what))
    run.report(Report(code, kind, hazard.line, save.node.line, "overwritten", words, sure=save.grad > MAYBE))


__all__ = ["NO", "analyse"]
