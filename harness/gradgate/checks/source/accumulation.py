"""Loops of a trainer's source that step the optimizer once in several batches, for the checks that read it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from gradgate.checks.source.conditions import at_each_turn, changed_in
from gradgate.checks.source.places import Places
from gradgate.checks.source.trainer import File, Function, called_name, dotted, nodes_in
from gradgate.checks.source.values import OTHERS, Names, always_run, assignments_in, is_empty_list, last_name, own_nodes
from gradgate.checks.source.windows import Cut, Windows
from gradgate.subjects.settings import is_of_accumulation

STEPS = re.compile(r"opt[^.]*\.step$|opt\w*_step$|scaler\w*\.step$", re.IGNORECASE)
OPTIMIZER = re.compile(r"(^|_)opt(im(izer)?)?s?(_|$)", re.IGNORECASE)
SCHEDULE = re.compile(r"sched[^.]*\.step$", re.IGNORECASE)
ENDLESS = re.compile(r"cycle|infinite|endless|forever|\bcount\(|streaming|\bstream\(", re.IGNORECASE)
MICRO = re.compile(r"micro_?(batch|step)|micros\b", re.IGNORECASE)

Body = ast.For | ast.While | Function
Calls = Callable[[Iterable[ast.AST]], Iterator[ast.Call]]


@dataclass(frozen=True)
class Accumulation:
    """A loop, and what steps in it.

    Args:
        loop: each of whose turns runs a backward.
        branch: whose condition says whether a turn steps.
        test: the condition that holds where it does, and where a name holds that one, the name's value.
        stepping: the statements that run then: of the branch, of its `else`, or behind it where it passes on to the
            next turn.
        when: the condition under which they run, as it is written.
    """

    loop: ast.For | ast.While
    branch: ast.If
    test: ast.expr
    stepping: tuple[ast.stmt, ...]
    when: str


@dataclass(frozen=True)
class Methods:
    """A file's own functions that always step an optimizer, or go backward, by name.

    Args:
        step: those that step.
        backward: those that go backward.
        stepping: the calls of those that step, in whatever file and however deep, by their `id`.
        going_back: the calls of those that go backward.
        windows: the loops over the batches of one update that go backward and step nothing, wherever they stand and
            whatever hands them their batches, by their `id`, each with how those are cut.
    """

    step: frozenset[str] = frozenset()
    backward: frozenset[str] = frozenset()
    stepping: frozenset[int] = frozenset()
    going_back: frozenset[int] = frozenset()
    windows: Mapping[int, Cut] = field(default_factory=dict)


NO_METHODS = Methods()


def methods_of(file: File, own: Places | None = None) -> Methods:
    """Those of a file: what stands in a branch or a loop of theirs need not run.

    Args:
        file: whose functions are looked at.
        own: the trainer's functions, for calls of other files' and of those that call others.
    """
    always = {function.name: list(always_run(function)) for function, _ in file.functions}
    return Methods(
        frozenset(name for name, nodes in always.items() if any(steps_in(nodes))),
        frozenset(name for name, nodes in always.items() if any(map(is_backward, nodes))),
        *(_deep(own) if own is not None else ()),
    )


@lru_cache(maxsize=1)
def _deep(own: Places) -> tuple[frozenset[int], frozenset[int], Mapping[int, Cut]]:
    """The calls of a trainer's functions that always step, and that always go backward, and its loops over windows."""
    always = {place: list(always_run(place.function)) for place in own.functions}
    stepping = [place for place, nodes in always.items() if any(steps_in(nodes))]
    going_back = [place for place, nodes in always.items() if any(map(is_backward, nodes))]
    steps = own.calls_leading_to(stepping, always.__getitem__)
    backward = own.calls_leading_to(going_back, always.__getitem__)
    known = Methods(stepping=steps, going_back=backward)
    return steps, backward, dict(_over_windows(own, known))


def _over_windows(own: Places, known: Methods) -> Iterator[tuple[int, Cut]]:
    """The loops over windows that go backward at each turn, and step nothing."""
    for loop, cut in Windows(own).loops:
        inside = list(nodes_in(loop.body, *OTHERS))
        if any(goes_back(node, known) for node in inside) and not any(steps_in(inside, known)):
            yield id(loop), cut


def goes_back(node: ast.AST, methods: Methods) -> bool:
    """Whether a node goes backward, or calls what always does."""
    return is_backward(node) or _is_of(node, methods.backward, methods.going_back)


def accumulations(nodes: Iterable[ast.AST], names: Names, methods: Methods = NO_METHODS) -> Iterator[Accumulation]:
    """Those of a function's own nodes. A branch that runs a backward of its own is another update, and none of them."""
    for loop in (node for node in nodes if isinstance(node, ast.For | ast.While)):
        for branch, test, stepping, when in stepping_in(loop, names, methods):
            yield Accumulation(loop, branch, test, stepping, when)


def stepping_in(
    turn: Body, names: Names, methods: Methods = NO_METHODS
) -> Iterator[tuple[ast.If, ast.expr, tuple[ast.stmt, ...], str]]:
    """Where the body of a loop, or of a function that is called once a batch, runs a backward and steps now and then.

    Yields:
        The branch, the test, the statements that step and the condition, as an `Accumulation` has them.
    """
    inside = list(nodes_in(turn.body, *OTHERS, ast.For, ast.While))
    backward = {id(node) for node in inside if is_backward(node) or _is_of(node, methods.backward, methods.going_back)}
    steps = set(map(id, steps_in(inside, methods))) if backward else set()
    for block in _blocks(turn, inside) if steps else ():
        for branch, when, stepping in _conditions(block, ast.Return if isinstance(turn, Function) else ast.Continue):
            taken = set(map(id, nodes_in(stepping, *OTHERS)))
            test = _held(when, names)
            if not steps & taken or backward & taken:
                continue
            if _is_now_and_then(test) or (begun_anew(test, stepping) and dotted(counted_to(test)) in _grown(inside)):
                yield branch, test, tuple(stepping), ast.unparse(when)


def turns_in(
    function: Function, nodes: Iterable[ast.AST], names: Names, methods: Methods
) -> Iterator[tuple[Body, ast.If, ast.expr, tuple[ast.stmt, ...], str]]:
    """The loops of a function that do so, and itself where it does, each with what `stepping_in` yields."""
    for body in (function, *(node for node in nodes if isinstance(node, ast.For | ast.While))):
        for found in stepping_in(body, names, methods):
            yield body, *found


def _blocks(turn: Body, inside: Iterable[ast.AST]) -> Iterator[list[ast.stmt]]:
    """The lists of statements of such a body."""
    yield turn.body
    for node in inside:
        if isinstance(node, ast.With | ast.AsyncWith | ast.Try | ast.If):
            yield node.body
        if isinstance(node, ast.If | ast.Try) and node.orelse:
            yield node.orelse


def _conditions(block: list[ast.stmt], leaves: type[ast.stmt]) -> Iterator[tuple[ast.If, ast.expr, list[ast.stmt]]]:
    """The branches of a block, each with a condition and the statements that run where it holds.

    Those behind a branch that leaves the turn run where its own condition does not hold.
    """
    for at, branch in enumerate(block):
        if not isinstance(branch, ast.If):
            continue
        yield branch, branch.test, branch.body
        if branch.orelse:
            yield branch, _opposite(branch.test), branch.orelse
        elif isinstance(branch.body[-1], leaves) and block[at + 1 :]:
            yield branch, _opposite(branch.test), block[at + 1 :]


def _opposite(test: ast.expr) -> ast.expr:
    """The condition that holds where one does not."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    if isinstance(test, ast.BoolOp):
        return ast.BoolOp(ast.And() if isinstance(test.op, ast.Or) else ast.Or(), [*map(_opposite, test.values)])
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.NotEq):
        return ast.Compare(test.left, [ast.NotEq() if isinstance(test.ops[0], ast.Eq) else ast.Eq()], test.comparators)
    return ast.UnaryOp(ast.Not(), test)


def _held(test: ast.expr, names: Names) -> ast.expr:
    """A condition, and where it is a name, or that it does not hold, the value of that name."""
    if isinstance(test, ast.UnaryOp) and (value := names.held(test.operand)) is not test.operand:
        return _opposite(value)
    return names.held(test)


def parts_of_updates(nodes: Sequence[ast.AST], methods: Methods = NO_METHODS) -> set[str]:
    """What the loops are over that run a backward at each turn and leave the optimizer's step to what follows."""
    if not any(steps_in(nodes, methods)):
        return set()
    loops = [node for node in nodes if isinstance(node, ast.For)]
    inside = {id(loop): list(nodes_in(loop.body, *OTHERS)) for loop in loops}
    return {
        ast.unparse(loop.iter)
        for loop in loops
        if any(map(is_backward, inside[id(loop)])) and not any(steps_in(inside[id(loop)]))
    }


def once_a_turn(file: File, calls: Calls, methods: Methods = NO_METHODS) -> Iterator[tuple[ast.Call, str, str]]:
    """Calls that each turn of a loop makes which runs a backward at each turn and steps an optimizer once in several.

    Args:
        file: whose functions are looked at.
        calls: the calls in question, among nodes.
        methods: the file's own functions that step or go backward.

    Yields:
        The call, its function's name, and when the optimizer steps, to go behind "at each turn"; each call once.
    """
    seen: set[int] = set()
    for function, _ in file.functions:
        for turn, stepping, told in _turns(function, methods):
            changed = changed_in(nodes_in([turn], *OTHERS))
            for call in calls(at_each_turn(turn.body, changed)):
                if id(call) not in stepping | seen:
                    seen.add(id(call))
                    yield call, function.name, told


def _turns(function: Function, methods: Methods) -> Iterator[tuple[Body, set[int], str]]:
    """The loops of a function whose turns are parts of an update, each with the nodes that step, and when that is.

    A function that is such a turn itself is one of them.
    """
    nodes = own_nodes(function)
    names = Names(function)
    for body, _, _, stepping, when in turns_in(function, nodes, names, methods):
        yield body, {id(node) for part in stepping for node in ast.walk(part)}, f"and the optimizer only where `{when}`"
    parts = parts_of_updates(nodes, methods)
    for loop in (node for node in nodes if isinstance(node, ast.For)):
        over = ast.unparse(loop.iter)
        is_part = over in parts or id(loop) in methods.windows or is_of_accumulation(over) or MICRO.search(over)
        if is_part and not any(steps_in(ast.walk(loop))):
            yield loop, set(), f"for each of `{over}`, and the optimizer once for all of them"


def steps_in(nodes: Iterable[ast.AST], methods: Methods = NO_METHODS) -> Iterator[ast.Call]:
    """The calls that step an optimizer."""
    for node in nodes:
        if isinstance(node, ast.Call) and (_is_a_step(node) or _is_of(node, methods.step, methods.stepping)):
            yield node


def _is_a_step(call: ast.Call) -> bool:
    """Whether a call steps an optimizer by its name, or by that of what it is given: `precision.step(optimizer)`."""
    if not dotted(call.func).endswith("step"):
        return False
    named = dotted(call.func).endswith(".step") and any(OPTIMIZER.search(last_name(each)) for each in call.args)
    return named or bool(STEPS.search(ast.unparse(call.func)))


def scheduled(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """The steps of a schedule."""
    for node in nodes:
        if isinstance(node, ast.Call) and not node.args and SCHEDULE.search(ast.unparse(node.func)):
            yield node


def _is_of(node: ast.AST, names: Collection[str], calls: Collection[int]) -> bool:
    """Whether a node calls one of these functions, or methods of the same object, or is one of these calls."""
    return isinstance(node, ast.Call) and (id(node) in calls or dotted(node.func).removeprefix("self.") in names)


def every(test: ast.expr) -> tuple[ast.expr, ast.expr] | None:
    """What is counted and by how many, of a condition that holds once in so many turns; of several, all must hold."""
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
    return next(filter(None, map(_counted, parts)), None)


def alternatives(test: ast.expr) -> list[ast.expr]:
    """The conditions any of which is enough for one."""
    return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else [test]


def _is_now_and_then(test: ast.expr) -> bool:
    return any(map(every, alternatives(test))) or is_of_accumulation(ast.unparse(test))


def counted_to(test: ast.expr) -> ast.expr:
    """What has to reach a number for a condition to hold: a count, or a list that is asked for its length."""
    right: tuple[type[ast.cmpop], ...] = (ast.Eq, ast.GtE)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, right = test.operand, (ast.NotEq, ast.Lt)
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], right)):
        return ast.Constant(None)
    asks = isinstance(test.left, ast.Call) and dotted(test.left.func) == "len" and len(test.left.args) == 1
    return test.left.args[0] if asks else test.left  # type: ignore[attr-defined]


def begun_anew(test: ast.expr, stepping: Iterable[ast.stmt]) -> bool:
    """Whether what a condition counts begins at 0, or as an empty list, behind what is done where it holds."""
    name = dotted(counted_to(test))
    nodes = list(nodes_in(stepping, *OTHERS)) if name else []
    cleared = any(isinstance(node, ast.Call) and dotted(node.func) == f"{name}.clear" for node in nodes)
    return cleared or any(dotted(target) == name and is_nothing(value) for target, value in assignments_in(nodes))


def is_nothing(value: ast.expr) -> bool:
    """Whether a value is 0, or an empty list."""
    return is_empty_list(value) or (isinstance(value, ast.Constant) and value.value == 0)


def _grown(nodes: Iterable[ast.AST]) -> set[str]:
    """What is raised, or appended to."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            found.add(dotted(node.target))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
            found.add(dotted(node.func.value))
    return found


def _counted(test: ast.expr) -> tuple[ast.expr, ast.expr] | None:
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        test = test.left
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test = test.operand
    if isinstance(test, ast.BinOp) and isinstance(test.op, ast.Mod) and not isinstance(test.left, ast.Constant):
        return test.left, test.right
    return None


def is_backward(node: ast.AST) -> bool:
    """Whether a node goes backward."""
    return isinstance(node, ast.Call) and called_name(node).endswith("backward")
