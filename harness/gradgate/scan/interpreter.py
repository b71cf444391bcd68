"""The flow analysis of one file: every function that holds something of interest is run abstractly, as a root."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable

from gradgate.scan import calls
from gradgate.scan.expressions import evaluate
from gradgate.scan.flow import execute
from gradgate.scan.frame import Frame, OverBudgetError, Report, Run
from gradgate.scan.modules import FORWARDS, Class, Function, Module
from gradgate.scan.state import Hazard, State, reach
from gradgate.scan.values import LIKELY, MAYBE, NO, Value, fresh, tensors_in, unknown

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
    roots = list(_roots(module))
    asked: list[tuple[Function, set[str]]] = []
    for function in roots:
        run.wanted = set()
        _root(run, function)
        asked.append((function, run.wanted))
    for function in _suppliers(module, set().union(*(wanted for _, wanted in asked)) - set(run.fields), roots):
        _root(run, function)
    for function, wanted in asked:
        if any(name in run.fields for name in wanted):
            _root(run, function)
    return list(run.reports.values())


def _roots(module: Module) -> Iterable[Function]:
    """Functions from which an interesting expression can be reached, in the file's order."""
    by_name: dict[str, list[Function]] = {}
    for function in module.every:
        by_name.setdefault(function.name, []).append(function)
    for owner in module.classes.values():
        for name in ("forward", "__call__", "__init__"):
            if name in owner.methods:
                by_name.setdefault(owner.name, []).append(owner.methods[name])
    hot = {function for function in module.every if function.hot}
    queue = list(hot)
    callers: dict[str, list[Function]] = {}
    for function in module.every:
        for name in function.calls:
            callers.setdefault(name, []).append(function)
    while queue:
        for caller in callers.get(queue.pop().name, ()):
            if caller not in hot:
                hot.add(caller)
                queue.append(caller)
    return [function for function in module.every if function in hot]


def _suppliers(module: Module, wanted: set[str], roots: list[Function]) -> list[Function]:
    """Functions that store something under a name that a root asked for, and are no roots themselves."""
    found: list[Function] = []
    for name in sorted(wanted):
        for function in module.keywords.get(name, ()):
            if function not in roots and function not in found:
                found.append(function)
    return found[:8]


def _root(run: Run, function: Function) -> None:
    owner = function.owner
    run.cost, run.hazards, run.escaped, run.entered, run.optimized = 0, [], [], [function], {}
    try:
        state = State()
        frame = Frame(run, function, {}, state)
        if owner is not None and not function.static:
            frame.myself = _instance(run, owner, frame, function)
        _bind_root(frame, function)
        frame.state.grad_on = not function.no_grad
        result = frame.run_body()
        _finish(run, frame, result)
    except (OverBudgetError, RecursionError):
        return


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
    for at, argument in enumerate(names):
        if at == 0 and frame.myself is not None:
            frame.env[argument.arg] = frame.myself
            continue
        value = unknown(argument.arg, LIKELY if in_forward else MAYBE)
        if (
            argument.annotation is not None
            and "Tensor" in ast.unparse(argument.annotation)
            and "[" not in ast.unparse(argument.annotation)
        ):
            value.kind = "tensor"
        frame.env[argument.arg] = value
    if parameters.vararg is not None:
        frame.env[parameters.vararg.arg] = unknown(parameters.vararg.arg, MAYBE)
    if parameters.kwarg is not None:
        frame.env[parameters.kwarg.arg] = unknown(parameters.kwarg.arg)


def _finish(run: Run, frame: Frame, result: Value) -> None:
    """What the function returns or leaves on objects may meet a backward: say which hazards that makes faults."""
    frame.escape(result)
    for value in [result, *tensors_in(result)]:
        run.check_cuts(frame, value, frame.state.nodes(value))
    if run.hazards:
        seen = reach(tuple(run.escaped))
        for hazard in run.hazards:
            if hazard.save.node in seen:
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
