"""What a trainer's source makes the number of batches of that a resumed epoch passes over."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import dotted, given_by, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, last_name
from gradgate.subjects.settings import is_of_accumulation

OTHER_UNITS = (ast.Mult, ast.FloorDiv, ast.Div)


class Counted:
    """The numbers that a count is made of, through names, attributes, arguments and functions of the trainer's own.

    Args:
        own: the trainer's functions.
    """

    def __init__(self, own: Places) -> None:
        self.own = own

    def of(self, node: ast.expr, place: Place, hops: int = 5) -> frozenset[str] | None:
        """The names that a number is made of as they are; None: it is multiplied or divided, and counts something else.

        An entry `state["step"]` is `.step`. What is subtracted, and what a rest is taken by, is none of them.
        """
        if hops == 0:
            return frozenset()
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, OTHER_UNITS):
                return None
            left = self.of(node.left, place, hops)
            return left if isinstance(node.op, ast.Mod | ast.Sub) else _both(left, self.of(node.right, place, hops))
        if isinstance(node, ast.IfExp):
            return _both(self.of(node.body, place, hops), self.of(node.orelse, place, hops))
        if is_of_accumulation(ast.unparse(node)):
            return None
        if isinstance(node, ast.Subscript) and (key := last_name(node)):
            return frozenset({f".{key}"})
        if isinstance(node, ast.Call):
            return self._of_call(node, place, hops)
        if isinstance(node, ast.Name | ast.Attribute):
            found: frozenset[str] | None = frozenset({dotted(node)})
            for value, there in self._held(node, place):
                found = _both(found, self.of(value, there, hops - 1))
            return found
        parts: frozenset[str] | None = frozenset()
        for part in ast.iter_child_nodes(node):
            parts = _both(parts, self.of(part, place, hops)) if isinstance(part, ast.expr) else parts
        return parts

    def _of_call(self, call: ast.Call, place: Place, hops: int) -> frozenset[str] | None:
        found: frozenset[str] | None = frozenset()
        called = self.own.called(call, place)
        values = called.returned if called is not None and called.name != "__init__" else []
        for value in values:
            found = _both(found, self.of(value, called or place, hops - 1))
        for given in given_by(call) if not values else ():
            found = _both(found, self.of(given, place, hops))
        return found

    def _held(self, node: ast.Name | ast.Attribute, place: Place) -> Iterator[tuple[ast.expr, Place]]:
        """What a name or an attribute was given last in front of where it stands; else what others give it."""
        name = dotted(node)
        before = [value for to, value in _assigned(place.nodes) if to == name and value.lineno < node.lineno]
        if before:
            yield max(before, key=lambda value: value.lineno), place
        elif isinstance(node, ast.Name) and name in place.parameters:
            yield from ((given, caller) for caller, given in self.own.values_given(place, name))
        elif place.owner is not None and name.startswith("self."):
            for other in self.own.methods_of(place.owner):
                if f"self.{other.name}" == name:  # a property
                    yield from ((value, other) for value in other.returned)
                if other is not place and other.file.has(name):
                    yield from ((value, other) for to, value in _assigned(other.nodes) if to == name)


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    return None if one is None or other is None else one | other


def _assigned(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """What names are assigned; `divmod` gives its whole part and its rest."""
    for target, value in assignments_in(nodes):
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Call) and dotted(value.func) == "divmod":
            if len(target.elts) == len(value.args) == 2:
                for to, op in zip(target.elts, (ast.FloorDiv(), ast.Mod()), strict=True):
                    yield dotted(to), ast.copy_location(ast.BinOp(value.args[0], op, value.args[1]), value)
        elif dotted(target):
            yield dotted(target), value


def taken_off(nodes: list[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """How many batches loops take off an iterator that do nothing else, each with the node to name."""
    for node in nodes:
        inside = list(nodes_in(node.body, *OTHERS)) if isinstance(node, ast.For | ast.While) else []
        calls = [part for part in inside if isinstance(part, ast.Call)]
        if len(calls) != 1 or dotted(calls[0].func) != "next":
            continue
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and dotted(node.iter.func) == "range":
            yield node.iter.args[-1], node.iter
        elif isinstance(node, ast.While):
            yield from ((part, part) for part in ast.walk(node.test) if isinstance(part, ast.Name | ast.Attribute))
