"""What the first epoch of a loop is made of, for the checks that read the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.own_calls import OwnCalls, Place
from gradgate.checks.source_values import assignments_in, own_nodes
from gradgate.checks.trainer_source import File, dotted

EPOCH = re.compile(r"epoch", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """An epoch's number, from an entry of a checkpoint or for one.

    Args:
        key: of the entry.
        more: what was added.
    """

    key: str
    more: int


def text_of(node: ast.expr | None) -> list[str]:
    """The text that a constant is; else none."""
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def added(node: ast.expr) -> tuple[ast.expr, int]:
    """An expression without `+ 1` and `int()`, and what was added."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and isinstance(node.right, ast.Constant):
        inner, more = added(node.left)
        number = node.right.value if isinstance(node.right.value, int) else 0
        return inner, more + (number if isinstance(node.op, ast.Add) else -number)
    if isinstance(node, ast.Call) and dotted(node.func) == "int" and len(node.args) == 1:
        return added(node.args[0])
    return node, 0


class Starts:
    """What the first epoch is made of.

    Args:
        own: the trainer's functions.
        files: of the trainer.
    """

    def __init__(self, own: OwnCalls, files: tuple[File, ...]) -> None:
        self.own, self.files = own, files

    def of(self, node: ast.expr, place: Place, more: int = 0, hops: int = 5) -> Iterator[Number]:
        """The entries of mappings that an expression may be."""
        node, plus = added(node)
        more += plus
        if hops == 0:
            return
        if isinstance(node, ast.IfExp):
            yield from self.of(node.body, place, more, hops - 1)
            yield from self.of(node.orelse, place, more, hops - 1)
        elif key := _entry(node):
            yield Number(key, more)
        elif isinstance(node, ast.Name):
            yield from self._of_name(node.id, place, more, hops - 1)
        elif isinstance(node, ast.Attribute):
            yield from self._of_attribute(node, place, more, hops - 1)
        elif isinstance(node, ast.Call) and (called := self.own.called(node, place)):
            for value in _returned(called):
                yield from self.of(value, called, more, hops - 1)

    def _of_name(self, name: str, place: Place, more: int, hops: int) -> Iterator[Number]:
        nodes = own_nodes(place.function)
        raised = [node for node in nodes if isinstance(node, ast.AugAssign) and dotted(node.target) == name]
        more += sum(not _loops(nodes, node) for node in raised)
        for target, value in assignments_in(nodes):
            if dotted(target) == name:
                yield from self.of(value, place, more, hops)
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Call):
                at = [number for number, part in enumerate(target.elts) if dotted(part) == name]
                maker = self.own.called(value, place) if at else None
                for made in _returned(maker) if maker else ():
                    if isinstance(made, ast.Tuple) and maker and len(made.elts) == len(target.elts):
                        yield from self.of(made.elts[at[0]], maker, more, hops)
        if name in place.parameters:
            for caller, call in self.own.calls_of(place.function.name):
                if self.own.called(call, caller) == place and (given := self.own.given(call, place).get(name)):
                    yield from self.of(given, caller, more, hops)

    def _of_attribute(self, node: ast.Attribute, place: Place, more: int, hops: int) -> Iterator[Number]:
        """What an attribute is assigned: of `self` in its class, of another object anywhere."""
        of_self = dotted(node.value) == "self"
        for other in self.own.places:
            if (of_self and other.file is not place.file) or not other.file.has(node.attr):
                continue
            nodes = own_nodes(other.function)
            raised = sum(_raises(part, dotted(node)) and not _loops(nodes, part) for part in nodes)
            for target, value in assignments_in(nodes):
                named = isinstance(target, ast.Attribute) and target.attr == node.attr
                if named and dotted(added(value)[0]) != dotted(node):  # `self.epoch + 1` is counted above
                    yield from self.of(value, other, more + raised, hops)


def _raises(node: ast.AST, name: str) -> bool:
    """Whether a statement adds to a name: `+= 1`, or `epoch = epoch + 1`."""
    if isinstance(node, ast.AugAssign):
        return dotted(node.target) == name
    is_sum = isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)
    return is_sum and dotted(node.targets[0]) == name == dotted(added(node.value)[0])  # type: ignore[attr-defined]


def _loops(nodes: list[ast.AST], inner: ast.AST) -> bool:
    """Whether a node stands in a loop."""
    return any(inner in list(ast.walk(node)) for node in nodes if isinstance(node, ast.For | ast.While))


def _entry(node: ast.expr) -> str:
    """The key of an epoch that a mapping is asked for."""
    found: list[str] = []
    if isinstance(node, ast.Subscript):
        found = text_of(node.slice)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
        found = [text for part in node.args[:1] for text in text_of(part)]
    return found[0] if found and EPOCH.search(found[0]) else ""


def _returned(place: Place) -> list[ast.expr]:
    return [node.value for node in own_nodes(place.function) if isinstance(node, ast.Return) and node.value is not None]
