"""Counts of updates that a trainer raises behind the save that has them: `done = self.step + 1`, a save, and
`self.step = done`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source_places import Place, Places
from gradgate.checks.source_values import assignments_in, blocks_in
from gradgate.checks.trainer_source import called_name, dotted

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
        for target, value in assignments_in(place.nodes) if place.file.has(name) else ():
            reads = any(isinstance(part, ast.Subscript | ast.Call) for part in ast.walk(value))
            if dotted(target).rpartition(".")[2] == name and reads and isinstance(value, ast.BinOp):
                return True
    return False
