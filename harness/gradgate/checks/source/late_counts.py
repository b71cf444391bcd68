"""Counts of updates that a trainer raises behind the save that has them: `done = self.step + 1`, a save, and
`self.step = done`; or hooks that save, and `self.state.step += 1`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.accumulation import steps_in
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import loads_optimizer
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, blocks_in

HOLDS = ("state_dict", "asdict", "vars", "to_dict", "model_dump", "get_state")
DEPTH = 3  # calls that are followed


def late_counts(own: Places) -> Iterator[tuple[Place, ast.Call, ast.expr]]:
    """The saves of a function, each with the count that it saves as it was before the update."""
    for place in own.functions:
        if not place.file.has("+ 1"):
            continue
        for block in blocks_in([place.function, *place.nodes]):
            for at, first in enumerate(block):
                for name, count in assignments_in([first]):
                    of = count.left if isinstance(count, ast.BinOp) and isinstance(count.op, ast.Add) else None
                    is_next = isinstance(of, ast.Attribute) and ast.unparse(count).endswith("+ 1")
                    if is_next and of is not None and isinstance(name, ast.Name):
                        yield from _saves_before(place, block[at + 1 :], name.id, of, own)


def counts_behind_hooks(own: Places) -> Iterator[tuple[Place, ast.Call, ast.expr]]:
    """The calls of hooks that save, behind an update, each with the count that is raised behind it in that block."""
    seen = set[int]()
    for place in own.functions:
        if not place.file.has("+= 1"):
            continue
        for block in blocks_in([place.function, *place.nodes]):
            for at, each in enumerate(block):
                count = each.target if isinstance(each, ast.AugAssign) and isinstance(each.op, ast.Add) else None
                name = dotted(count) if isinstance(count, ast.Attribute) else ""
                of_object = name.startswith("self.") and "epoch" not in name.lower()  # epochs are GG625's
                if count is None or not of_object or not ast.unparse(each).endswith("+= 1"):
                    continue
                before = [node for one in block[:at] for node in ast.walk(one)]
                calls = [node for node in before if isinstance(node, ast.Call)]
                inside = (called.nodes for call in calls if (called := own.called(call, place)) is not None)
                if not any(any(steps_in(nodes)) for nodes in (before, *inside)) or _is_raised_by_loading(count, own):
                    continue
                found = next((call for call in calls if _hooks_save(call, place, dotted(count), own)), None)
                if found is not None and id(found) not in seen:
                    seen.add(id(found))
                    yield place, found, count


def _hooks_save(call: ast.Call, place: Place, count: str, own: Places) -> bool:
    """Whether a call goes to hooks, by an event or in a loop over them, of which one saves a count as it is."""
    parts = count.split(".")[1:]
    name = _event(call, place, own)
    hooks = own.methods(name) if name else []
    return any(hook.owner is not place.owner and _saves_of(hook, parts, own, DEPTH) for hook in hooks)


def _event(call: ast.Call, place: Place, own: Places) -> str:
    """The name of the method of hooks that a call leads to; empty: none is known."""
    before, _, name = dotted(call.func).rpartition(".")
    if any(isinstance(node, ast.For) and dotted(node.target) == before and before for node in place.nodes):
        return name
    called = own.called(call, place)
    given = called.given(call) if called is not None else {}
    for node in called.nodes if called is not None else ():
        if not (isinstance(node, ast.Call) and dotted(node.func) == "getattr" and len(node.args) > 1):
            continue
        texts = []
        for part in node.args[1].values if isinstance(node.args[1], ast.JoinedStr) else [node.args[1]]:
            value = part.value if isinstance(part, ast.FormattedValue) else part
            value = given.get(value.id, value) if isinstance(value, ast.Name) else value
            texts.append(value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else "")
        if all(texts):
            return "".join(texts)
    return ""


def _saves_of(place: Place, parts: list[str], own: Places, depth: int) -> bool:
    """Whether a function makes a mapping, with an optimizer in it, of a count of an object that it is given."""
    for node in place.nodes:
        if isinstance(node, ast.Dict) and "opt" in ast.unparse(node).lower():
            if any(_is_of(value, parts) for value in node.values):
                return True
        elif isinstance(node, ast.Call) and depth and "best" not in ast.unparse(node):
            called = own.called(node, place)
            if called is not None and called is not place and _saves_of(called, parts, own, depth - 1):
                return True
    return False


def _is_of(value: ast.expr, parts: list[str]) -> bool:
    """Whether a value is a count by the end of its name, or all of what holds it."""
    if dotted(value).split(".")[1:] == parts:
        return True
    if not isinstance(value, ast.Call) or called_name(value) not in HOLDS or len(parts) < 2:
        return False
    holders = (dotted(value.args[0]) if value.args else "", dotted(value.func).rpartition(".")[0])
    return any(holder.split(".")[1:] == parts[:-1] for holder in holders)


def _saves_before(
    place: Place, block: list[ast.stmt], name: str, count: ast.expr, own: Places
) -> Iterator[tuple[Place, ast.Call, ast.expr]]:
    """The first save of a block in front of the line that gives the count what a name holds."""
    given = [[(dotted(to), dotted(value)) for to, value in assignments_in([each])] for each in block]
    last = next((at for at, pairs in enumerate(given) if (dotted(count), name) in pairs), None)
    if last is None or _is_raised_by_loading(count, own):
        return
    for call in (node for each in block[:last] for node in ast.walk(each) if isinstance(node, ast.Call)):
        called = own.called(call, place)
        if called is not None and "save" in called_name(call).lower() and _saves(called, dotted(count), own, DEPTH):
            yield place, call, count
            return


def _saves(place: Place, count: str, own: Places, depth: int) -> bool:
    """Whether a function makes a mapping, with an optimizer in it, of a count or of what holds that."""
    for node in place.nodes:
        if isinstance(node, ast.Dict) and "opt" in ast.unparse(node).lower():
            if any(_has(value, count) for value in node.values):
                return True
        elif isinstance(node, ast.Call) and depth:
            called = own.called(node, place)
            if called is not None and called is not place and _saves(called, count, own, depth - 1):
                return True
    return False


def _has(value: ast.expr, count: str) -> bool:
    if dotted(value) == count:
        return True
    holder = count.rpartition(".")[0]
    if holder == "self" or not isinstance(value, ast.Call) or called_name(value) not in HOLDS:
        return False
    return holder in (dotted(value.args[0]) if value.args else "", dotted(value.func).rpartition(".")[0])


def _is_raised_by_loading(count: ast.expr, own: Places) -> bool:
    """Whether what is loaded is raised by one."""
    name = dotted(count).rpartition(".")[2]
    for place in own.functions:
        loads = place.file.has("load_state_dict") and loads_optimizer(place.nodes)
        raised = (node for node in place.nodes if isinstance(node, ast.AugAssign)) if loads else ()
        if any(dotted(node.target).rpartition(".")[2] == name for node in raised):
            return True
        for target, value in assignments_in(place.nodes) if place.file.has(name) else ():
            reads = any(isinstance(part, ast.Subscript | ast.Call) for part in ast.walk(value))
            if dotted(target).rpartition(".")[2] == name and reads and isinstance(value, ast.BinOp):
                return True
    return False
