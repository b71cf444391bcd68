"""Statements: how each changes the state of the path that runs through it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable

from gradgate.scan.expressions import assign, element, evaluate, set_item, truth
from gradgate.scan.frame import Frame
from gradgate.scan.state import State, join_states
from gradgate.scan.torch_ops import arithmetic, is_tensorish
from gradgate.scan.values import Value, const

Body = list[ast.stmt]


def execute(frame: Frame, body: Body) -> None:
    """Run statements until the path ends."""
    for statement in body:
        if frame.state.dead:
            return
        frame.run.cost += 1
        handler = _HANDLERS.get(type(statement))
        if handler is not None:
            handler(frame, statement)


def _assign(frame: Frame, node: ast.Assign) -> None:
    value = evaluate(frame, node.value)
    for target in node.targets:
        assign(frame, target, value)


def _annotated(frame: Frame, node: ast.AnnAssign) -> None:
    if node.value is not None:
        value = evaluate(frame, node.value)
        if value.kind == "unknown" and "Tensor" in ast.unparse(node.annotation):
            value.kind = "tensor"
        assign(frame, node.target, value)


def _augmented(frame: Frame, node: ast.AugAssign) -> None:
    target = node.target
    given = evaluate(frame, node.value)
    if isinstance(target, ast.Subscript):
        base = evaluate(frame, target.value)
        evaluate(frame, target.slice)
        set_item(frame, target, base, given)
        return
    old = evaluate(frame, target)
    if old.kind == "array":
        frame.write(old, node, "array", "augmented assignment")
    elif old.kind == "tensor":
        op = _AUGMENTED.get(type(node.op), "augmented assignment")
        frame.write(old, node, "inplace", op, given)
        frame.leaf_write(old, node, op)
        frame.run.accumulate(frame, node, given)
    else:
        result = arithmetic(frame, node, type(node.op), old, given)
        if is_tensorish(given):
            frame.run.accumulate(frame, node, given)
        assign(frame, target, result)


_AUGMENTED: dict[type, str] = {
    ast.Add: "+=", ast.Sub: "-=", ast.Mult: "*=", ast.Div: "/=", ast.Pow: "**=", ast.Mod: "%=", ast.MatMult: "@=",
    ast.BitAnd: "&=", ast.BitOr: "|=", ast.BitXor: "^=", ast.FloorDiv: "//=",
}  # fmt: skip


def _expression(frame: Frame, node: ast.Expr) -> None:
    evaluate(frame, node.value)
    if frame.run.clobbered is not None and isinstance(node.value, ast.Call):
        frame.run.clobbered.facts.pop("clobbered", None)  # the result is not used: the write is what was wanted


def _return(frame: Frame, node: ast.Return) -> None:
    value = evaluate(frame, node.value) if node.value is not None else const(None)
    frame.leave(node, value)


def _end(frame: Frame, node: ast.stmt) -> None:
    if isinstance(node, ast.Raise) and node.exc is not None:
        evaluate(frame, node.exc)
    frame.state.dead = True


def _jump(frame: Frame, node: ast.stmt) -> None:
    frame.exits.append((frame.state.copy(), dict(frame.env)))
    frame.state.dead = True


def _if(frame: Frame, node: ast.If) -> None:
    decided = truth(frame, node.test)
    if decided is not None:
        execute(frame, node.body if decided else node.orelse)
        return
    branch(frame, [lambda: execute(frame, node.body), lambda: execute(frame, node.orelse)])


def branch(frame: Frame, ways: Iterable[Callable[[], None]]) -> None:
    """Run several ways from here, and go on with what holds behind all of them."""
    state, env = frame.state, frame.env
    states: list[State] = []
    envs: list[dict[str, Value]] = []
    for way in ways:
        frame.state, frame.env = state.copy(), dict(env)
        way()
        states.append(frame.state)
        envs.append(frame.env)
    frame.state, frame.env = join_states(states, envs)


def _for(frame: Frame, node: ast.For | ast.AsyncFor) -> None:
    source = evaluate(frame, node.iter)
    count = len(source.items) if source.kind == "seq" and source.items is not None else None
    if count == 0:
        execute(frame, node.orelse)
        return

    turns = 1 if count == 1 and not source.facts.get("any") else 2

    def once(turn: int) -> None:
        if source.kind == "seq" and count and count > 2 and turn == 1:
            assign(frame, node.target, element(source))
        else:
            assign(frame, node.target, element(source, turn))
        frame.last_turn = turn == turns - 1
        execute(frame, node.body)

    outside = frame.last_turn, frame.asked_for_last
    frame.asked_for_last = False
    _loop(frame, once, turns, at_least_once=True)
    frame.last_turn, frame.asked_for_last = outside
    execute(frame, node.orelse)


def _while(frame: Frame, node: ast.While) -> None:
    def once(turn: int) -> None:
        evaluate(frame, node.test)
        execute(frame, node.body)

    outside = frame.last_turn, frame.asked_for_last
    frame.last_turn, frame.asked_for_last = None, False
    _loop(frame, once, 2, at_least_once=False)
    frame.last_turn, frame.asked_for_last = outside


def _loop(frame: Frame, once: Callable[[int], None], turns: int, *, at_least_once: bool) -> None:
    """Two turns: what the first saves, the second may write."""
    states, envs = ([], []) if at_least_once else ([frame.state.copy()], [dict(frame.env)])
    outside, frame.exits = frame.exits, []
    frame.loops += 1
    for turn in range(turns if frame.loops <= 2 else 1):
        once(turn)
        done = [*frame.exits, (frame.state, frame.env)]
        frame.exits = []
        frame.state, frame.env = join_states([state for state, _ in done], [env for _, env in done])
        states.append(frame.state.copy())
        envs.append(dict(frame.env))
        if frame.state.dead:
            break
    frame.loops -= 1
    frame.exits = outside
    if frame.asked_for_last:  # then the loop ends behind its last turn, and behind no other
        states, envs = states[-1:], envs[-1:]
    frame.state, frame.env = join_states(states, envs)


def _with(frame: Frame, node: ast.With | ast.AsyncWith) -> None:
    before, silent = frame.state.grad_on, False
    for item in node.items:
        mode = grad_mode(frame, item.context_expr)
        if mode is not None:
            frame.state.grad_on = mode
            continue
        value = evaluate(frame, item.context_expr)
        if value.kind == "external" and str(value.data).endswith("_unsafe_preserve_version_counter"):
            silent = True
        if item.optional_vars is not None:
            assign(frame, item.optional_vars, value)
    was = frame.quiet
    frame.quiet = frame.quiet or silent
    if any(_expects_error(item.context_expr) for item in node.items):
        frame.state.grad_on = False  # a test of the very error: nothing here is a mistake
    execute(frame, node.body)
    frame.quiet = was
    frame.state.grad_on = before


def _expects_error(node: ast.expr) -> bool:
    """`pytest.raises(...)`, `self.assertRaises(...)`."""
    function = node.func if isinstance(node, ast.Call) else node
    name = function.attr if isinstance(function, ast.Attribute) else ""
    return name == "raises" or name.startswith(("assertRaises", "assertWarns"))


def grad_mode(frame: Frame, node: ast.expr) -> bool | None:
    """Whether a context manager switches gradient off (False) or on (True); None where it does neither."""
    call = node if isinstance(node, ast.Call) else None
    name = frame.function.module.dotted(call.func if call else node)
    if name.endswith(("no_grad", "inference_mode")):
        return False
    if name.endswith("enable_grad"):
        return True
    if name.endswith("set_grad_enabled") and call and call.args:
        return truth(frame, call.args[0]) is not False
    return None


def _try(frame: Frame, node: ast.Try) -> None:
    before_state, before_env = frame.state.copy(), dict(frame.env)
    execute(frame, node.body)
    execute(frame, node.orelse)
    states, envs = [frame.state], [frame.env]
    for handler in node.handlers:
        frame.state, frame.env = before_state.copy(), dict(before_env)
        execute(frame, handler.body)
        states.append(frame.state)
        envs.append(frame.env)
    frame.state, frame.env = join_states(states, envs)
    if frame.state.dead and node.finalbody:
        frame.state.dead = False
        execute(frame, node.finalbody)
        frame.state.dead = True
    else:
        execute(frame, node.finalbody)


def _define(frame: Frame, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    inner = frame.function.module.inner(node)
    if inner is not None:
        value = Value("function", data=(inner, None))
        if frame is not frame.run.top:
            value.facts = {"outer": frame.env}
        frame.env[node.name] = value


def _define_class(frame: Frame, node: ast.ClassDef) -> None:
    entry = frame.function.module.defined(node) if frame is frame.run.top else None
    if entry is not None:
        frame.env[node.name] = Value("class", data=entry, name=node.name)


def _delete(frame: Frame, node: ast.Delete) -> None:
    for target in node.targets:
        if isinstance(target, ast.Name):
            frame.env.pop(target.id, None)
        elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice):
            base = evaluate(frame, target.value)
            if base.kind == "seq":
                base.items = []


def _match(frame: Frame, node: ast.Match) -> None:
    evaluate(frame, node.subject)
    branch(frame, [lambda case=case: execute(frame, case.body) for case in node.cases] + [lambda: None])


def _assert(frame: Frame, node: ast.Assert) -> None:
    if isinstance(node.test, ast.Call):
        evaluate(frame, node.test)


_HANDLERS: dict[type, Callable[..., None]] = {
    ast.Assign: _assign, ast.AnnAssign: _annotated, ast.AugAssign: _augmented, ast.Expr: _expression,
    ast.Return: _return,
    ast.Raise: _end, ast.Break: _jump, ast.Continue: _jump, ast.If: _if, ast.For: _for, ast.AsyncFor: _for,
    ast.While: _while, ast.With: _with, ast.AsyncWith: _with, ast.Try: _try, ast.TryStar: _try,
    ast.FunctionDef: _define, ast.AsyncFunctionDef: _define, ast.ClassDef: _define_class,
    ast.Delete: _delete, ast.Match: _match, ast.Assert: _assert,
}  # fmt: skip
