"""A function runs `loss.backward()` and `optimizer.step()`, and nothing in the file, as far as its class's
constants let it run, clears that optimizer's gradients: no `zero_grad`, no `.grad = None`. Also: `zero_grad` at
the start of every epoch while the update waits for a number of micro-batches, so that the last ones of an epoch
are thrown away.

```python
loss.backward()          # bad: adds to the gradients of the step before
optimizer.step()

optimizer.zero_grad()    # good
loss.backward()
optimizer.step()
```
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.scan.frame import Report
from gradgate.scan.modules import Function, Module
from gradgate.scan.nodes import walk
from gradgate.scan.rules.reachable import reachable
from gradgate.scan.rules.text import Text
from gradgate.scan.values import Line

CODE, NAME = "GG206", "stale-gradient"
STEPS = ("step", "optimizer_step")
TEXTS = {
    "never": Text(
        "backward() adds to the gradients of the step before: nothing clears those of `{name}`",
        "the update uses gradients of all steps so far: the effective learning rate grows",
        "call `{name}.zero_grad()` before the backward",
    ),
    "tail": Text(
        "zero_grad() at the start of each epoch throws away the micro-batches that were not stepped yet",
        "the last micro-batches of every epoch never train",
        "clear gradients only after a step, or step once more at the end of the epoch",
        "warning",
    ),
}


def look(module: Module) -> Iterator[Report]:
    """Training steps without zero_grad, and accumulation whose tail is dropped."""
    if "backward" not in module.attributes or "step" not in module.attributes:
        return
    cleared = _cleared(module)
    for function in module.scopes:
        if "backward" in function.calls and "step" in function.calls:
            yield from _never(module, function, _seen_from(module, function, cleared))
        if "backward" in function.calls and "zero_grad" in function.calls:
            yield from _tail(module, function)


def _cleared(module: Module) -> set[str]:
    """Names on which zero_grad is called, on a path that can run."""
    return set().union(*(_cleared_in(function) for function in module.every))


def _cleared_in(function: Function) -> set[str]:
    found: set[str] = set()
    for node in reachable(function.node, function.owner):
        if isinstance(node, ast.Attribute) and node.attr == "zero_grad":
            found.add(_last(node.value))
        elif isinstance(node, ast.Attribute) and node.attr == "grad" and isinstance(node.ctx, ast.Store):
            found.add("*")
    return found


def _seen_from(module: Module, function: Function, cleared: set[str]) -> set[str]:
    """What is cleared, as a function sees it: between functions and the top level any name may be any other's."""
    if function is not module.body:
        return cleared | {"*"} if "zero_grad" in module.body.calls else cleared
    if any("zero_grad" in other.calls or "grad" in other.calls for other in module.every):
        return {"*"}
    here = _cleared_in(function)
    return here if here == _optimizer_names(here) else {"*"}  # a model that is cleared clears for its optimizer


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "*"


def _never(module: Module, function: Function, cleared: set[str]) -> Iterator[Report]:
    steps: list[str] = []
    backward: ast.AST | None = None
    for node in reachable(function.node, function.owner):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "backward" and _is_loss(node):
                backward = backward or node
            elif (node.func.attr == "step" and not node.args and "opt" in _last(node.func.value).lower()) or (
                node.func.attr == "step" and _last(node.func.value) in ("od", "og")
            ):
                steps.append(_last(node.func.value))
    if backward is None or not steps or "*" in cleared or not _repeats(module, function, backward):
        return
    name = steps[0]
    if name not in cleared and not (cleared and not _optimizer_names(cleared)):
        line = Line(module.path, backward.lineno, backward.col_offset, function.name)  # type: ignore[attr-defined]
        yield Report(CODE, "stale_grad", line, None, "never", (("name", name),))


def _repeats(module: Module, function: Function, backward: ast.AST) -> bool:
    """Whether the step runs more than once: in a loop, or in a function that others call (not a single-step test)."""
    if "test" in function.name.lower() or "test" in module.path.rpartition("/")[2].lower():
        return False
    loops = (node for node in walk(function.node) if isinstance(node, ast.For | ast.While))
    if any(part is backward for loop in loops for part in walk(loop)):
        return True
    callers = [caller for caller in module.scopes if function.name in caller.calls and caller is not function]
    return function.owner is not None or any(_calls_in_loop(caller, function.name) for caller in callers)


def _calls_in_loop(caller: Function, name: str) -> bool:
    loops = (node for node in walk(caller.node) if isinstance(node, ast.For | ast.While))
    calls = (part for loop in loops for part in walk(loop) if isinstance(part, ast.Call))
    return any(_last(part.func) == name for part in calls)


def _optimizer_names(names: set[str]) -> set[str]:
    """Of the names that are cleared, those that are optimizers; a model that is cleared clears for all."""
    return {name for name in names if name.lower().startswith("o") or "opt" in name.lower()}


def _is_loss(node: ast.Call) -> bool:
    return not node.args or any(keyword.arg == "retain_graph" for keyword in node.keywords)


def _tail(module: Module, function: Function) -> Iterator[Report]:
    for around, block in _blocks(module, function):
        for at, loop in enumerate(block):
            if not isinstance(loop, ast.For) or not _waits(loop, block[:at] if around else None):
                continue
            before = [
                node
                for statement in block[:at]
                if not isinstance(statement, ast.For | ast.While)
                for node in reachable(ast.Module([statement], []), function.owner)
                if isinstance(node, ast.Attribute) and node.attr == "zero_grad"
            ]
            if before and not any(map(_steps, block[at + 1 :])):
                line = Line(module.path, before[-1].lineno, before[-1].col_offset, function.name)
                yield Report(CODE, "stale_grad", line, None, "tail", ())
                return


def _blocks(module: Module, function: Function) -> Iterator[tuple[bool, list[ast.stmt]]]:
    """What may run once an epoch: the body of a function, and those of the loops in it."""
    body = getattr(function.node, "body", [])
    if isinstance(body, list) and function is not module.body:
        yield False, body
    for node in walk(function.node):
        if isinstance(node, ast.For | ast.While):
            yield True, node.body


def _waits(loop: ast.For, before: list[ast.stmt] | None) -> bool:
    """Whether a loop over micro-batches steps by a count of them that goes on behind it.

    Args:
        loop: over the micro-batches of an epoch.
        before: what an epoch does in front of it; None: the epoch is a function, in which only attributes go on.
    """
    inside = list(_own(loop.body))
    if not any(isinstance(node, ast.Attribute) and node.attr == "backward" for node in inside):
        return False
    counted = next((left for node in inside if isinstance(node, ast.If) and (left := _counted(node, inside))), None)
    parts = walk(counted) if counted is not None else []
    if before is None or any(isinstance(node, ast.Attribute) for node in parts):
        return any(isinstance(node, ast.Attribute) for node in parts)
    begun = {_stored(node) for part in (loop.target, *before) for node in walk(part)}
    names = {node.id for node in parts if isinstance(node, ast.Name)}
    return bool(names) and not names & begun


def _own(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The nodes of a loop's body, without those of the loops in it."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.For | ast.While):
            for child in ast.iter_child_nodes(statement):
                yield from _own([child])  # type: ignore[list-item]


def _stored(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else ""


def _counted(branch: ast.If, inside: list[ast.AST]) -> ast.expr | None:
    """What `count % every == 0`, and nothing else such as a test for the last batch, counts, where it decides about a
    step."""
    test = branch.test
    if not (isinstance(test, ast.Compare) and isinstance(test.left, ast.BinOp) and isinstance(test.left.op, ast.Mod)):
        return None
    if isinstance(test.ops[0], ast.NotEq):
        passes = isinstance(branch.body[-1], ast.Continue) and not any(map(_steps, branch.body))
        behind = (node for node in inside if _steps_at(node) > branch.lineno)
        return test.left.left if passes and any(behind) else None
    return test.left.left if any(map(_steps, branch.body)) else None


def _steps_at(node: ast.AST) -> int:
    return node.lineno if isinstance(node, ast.Attribute) and node.attr in STEPS else 0


def _steps(statement: ast.AST) -> bool:
    return any(map(_steps_at, walk(statement)))
