"""Which conditions of a trainer's source hold for a whole run, for the checks that ask what is done under none."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator

from gradgate.checks.source.trainer import called_name
from gradgate.checks.source.values import OTHERS, assignments_in, last_name, places_of

OF_TURNS = re.compile(
    r"step|iter|count|micro|batch|updat|accum|epoch|sync|turn|last|first|interval|every|resum|rank|process|bound|ready"
    r"|full|flush|done|final",
    re.IGNORECASE,
)
ASKS = ("get", "getattr", "hasattr", "isinstance", "bool", "float", "int")  # what reads a setting


def changed_in(nodes: Iterable[ast.AST]) -> set[str]:
    """The names, and the last names of attributes, that nodes assign, count up or run over."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.For | ast.AsyncFor | ast.AugAssign | ast.comprehension):
            found |= set(map(last_name, places_of(node.target)))
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            found |= set(map(last_name, places_of(node.optional_vars)))
        else:
            found |= {last_name(place) for target, _ in assignments_in([node]) for place in places_of(target)}
    return found


def is_setting(test: ast.expr, changed: Collection[str] = ()) -> bool:
    """Whether a condition is one of the whole run: as good as none for what is done under it.

    It reads nothing that changes with a turn or an update: no name of these, no rest of a division, no call but of what
    reads a setting, and nothing that is called after steps, batches, counts or a place among them.
    """
    if OF_TURNS.search(ast.unparse(test)):
        return False
    for part in ast.walk(test):
        if isinstance(part, ast.Call) and called_name(part) not in ASKS:
            return False
        if isinstance(part, ast.Name | ast.Attribute) and last_name(part) in changed:
            return False
        if isinstance(part, ast.BinOp):
            return False
    return True


def at_each_turn(
    body: Iterable[ast.AST], changed: Collection[str] = (), loops: tuple[type[ast.AST], ...] = (ast.For, ast.While)
) -> Iterator[ast.AST]:
    """The nodes of a loop's or a function's body that run whenever it does, or that a setting of the run leaves out."""
    waiting = list(body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if isinstance(node, ast.If | ast.IfExp) and not is_setting(node.test, changed):
            continue
        if not isinstance(node, (*OTHERS, *loops)):
            waiting += ast.iter_child_nodes(node)
