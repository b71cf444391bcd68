"""Numbers that a trainer's source saves in a checkpoint, and what it goes on with: of epochs, or of steps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import dotted, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in

BEST = re.compile(r"best|better|improve", re.IGNORECASE)
DEPTH = 3  # calls that are followed


@dataclass(frozen=True)
class Number:
    """A number, from an entry of a checkpoint or for one.

    Args:
        key: of the entry.
        more: what was added.
    """

    key: str
    more: int


@dataclass(frozen=True)
class Save:
    """A number that is saved.

    Args:
        keys: of all entries.
    """

    number: Number
    node: ast.expr
    place: Place
    keys: frozenset[str]


def texts_of(node: ast.expr | None) -> list[str]:
    """The text that an expression is; anything else is none."""
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def without_added(node: ast.expr) -> tuple[ast.expr, int]:
    """An expression without `+ 1` and `int()`, and what was added."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and isinstance(node.right, ast.Constant):
        inner, more = without_added(node.left)
        number = node.right.value if isinstance(node.right.value, int) else 0
        return inner, more + (number if isinstance(node.op, ast.Add) else -number)
    if isinstance(node, ast.Call) and dotted(node.func) == "int" and len(node.args) == 1:
        return without_added(node.args[0])
    return node, 0


class Starts:
    """What the first number of a loop is made of.

    Args:
        own: the trainer's functions.
        kind: what the keys of such numbers are called.
    """

    def __init__(self, own: Places, kind: re.Pattern[str]) -> None:
        self.own, self.kind = own, kind

    def of(self, node: ast.expr, place: Place, more: int = 0, hops: int = 5) -> Iterator[Number]:
        """The entries of mappings that an expression may be."""
        node, added = without_added(node)
        more += added
        if hops == 0:
            return
        if isinstance(node, ast.IfExp):
            yield from self.of(node.body, place, more, hops - 1)
            yield from self.of(node.orelse, place, more, hops - 1)
        elif key := self._entry(node):
            yield Number(key, more)
        elif isinstance(node, ast.Name):
            yield from self._of_name(node.id, place, more, hops - 1)
        elif isinstance(node, ast.Attribute):
            yield from self._of_attribute(node, place, more, hops - 1)
        elif isinstance(node, ast.Call) and (called := self.own.called(node, place)):
            for value in called.returned:
                yield from self.of(value, called, more, hops - 1)

    def _of_name(self, name: str, place: Place, more: int, hops: int) -> Iterator[Number]:
        nodes = place.nodes
        raised = (node for node in nodes if isinstance(node, ast.AugAssign) and dotted(node.target) == name)
        more += sum(not _loops(nodes, node) for node in raised)
        for target, value in assignments_in(nodes):
            if dotted(target) == name:
                yield from self.of(value, place, more, hops)
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Call):
                at = [number for number, part in enumerate(target.elts) if dotted(part) == name]
                maker = self.own.called(value, place) if at else None
                for made in maker.returned if maker else ():
                    if isinstance(made, ast.Tuple) and maker and len(made.elts) == len(target.elts):
                        yield from self.of(made.elts[at[0]], maker, more, hops)
        if name in place.positional:
            for caller, given in self.own.values_given(place, name):
                yield from self.of(given, caller, more, hops)

    def _of_attribute(self, node: ast.Attribute, place: Place, more: int, hops: int) -> Iterator[Number]:
        """What an attribute is assigned: of `self` in its class, of another object anywhere."""
        of_self = dotted(node.value) == "self"
        for other in self.own.functions:
            if (of_self and other.file is not place.file) or not other.file.has(node.attr):
                continue
            nodes = other.nodes
            raised = sum(
                isinstance(part, ast.AugAssign) and dotted(part.target) == dotted(node) and not _loops(nodes, part)
                for part in nodes
            )
            for target, value in assignments_in(nodes):
                named = isinstance(target, ast.Attribute) and target.attr == node.attr
                if named and dotted(without_added(value)[0]) != dotted(node):
                    yield from self.of(value, other, more + raised, hops)

    def _entry(self, node: ast.expr) -> str:
        """The key of such a number that a mapping is asked for."""
        found: list[str] = []
        if isinstance(node, ast.Subscript):
            found = texts_of(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            found = [text for part in node.args[:1] for text in texts_of(part)]
        return found[0] if found and self.kind.search(found[0]) else ""


def _loops(nodes: list[ast.AST], inner: ast.AST) -> bool:
    """Whether a node stands in a loop."""
    return any(inner in list(ast.walk(node)) for node in nodes if isinstance(node, ast.For | ast.While))


class Payloads:
    """What statements save of a number, by themselves or by the functions that they call.

    Args:
        own: the trainer's functions.
        kind: what the keys of such numbers are called.
        around: the function whose statements are looked at.
    """

    def __init__(self, own: Places, kind: re.Pattern[str], around: Place) -> None:
        self.own, self.kind, self.place = own, kind, around

    def of(self, part: ast.AST, place: Place, known: Mapping[str, int], depth: int = DEPTH) -> Iterator[Save]:
        """The saves of a statement, or of a function that is called in one."""
        for node in nodes_in([part], *OTHERS, ast.For, ast.While) if depth else ():
            if isinstance(node, ast.Dict):
                keys = [text for key in node.keys for text in texts_of(key) or [""]]
                yield from self._of_entries(place, dict(zip(keys, node.values, strict=True)), known)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                entries = dict.fromkeys(texts_of(node.targets[0].slice), node.value)
                if any("opt" in ast.unparse(other).lower() for other in place.function.body):
                    yield from self._of_entries(place, entries | {"optimizer": node.value}, known)
            elif isinstance(node, ast.Call):
                words = {word.arg or "": word.value for word in node.keywords}
                if dotted(node.func) == "dict":
                    yield from self._of_entries(place, words, known)
                elif called := self.own.called(node, place):
                    yield from self._called(node, called, known, depth)

    def _called(self, call: ast.Call, called: Place, known: Mapping[str, int], depth: int) -> Iterator[Save]:
        if called == self.place or BEST.search(ast.unparse(call)) or BEST.search(called.function.name):
            return
        inside = self.inside(call, called, known)
        for statement in called.function.body if inside else ():
            yield from self.of(statement, called, inside, depth - 1)

    def inside(self, call: ast.Call, called: Place, known: Mapping[str, int]) -> dict[str, int]:
        """What holds the number in a function that is called."""
        same = dotted(call.func).startswith("self.")
        inside = {name: more for name, more in known.items() if "." in name and (same or not name.startswith("self."))}
        for name, value in called.given(call).items():
            inner, more = without_added(value)
            if dotted(inner) in known:
                inside[name] = known[dotted(inner)] + more
        return inside

    def _of_entries(self, place: Place, entries: Mapping[str, ast.expr], known: Mapping[str, int]) -> Iterator[Save]:
        if not any("opt" in f"{key} {ast.unparse(value)}".lower() for key, value in entries.items()):
            return
        for key, value in entries.items():
            inner, more = without_added(value)
            if self.kind.search(key) and dotted(inner) in known:
                yield Save(Number(key, known[dotted(inner)] + more), value, place, frozenset(entries))


def held_at(body: list[ast.stmt], first: Mapping[str, int], line: int) -> dict[str, int]:
    """The names and attributes that hold a loop's number at a line of its body, and what is added to it.

    Args:
        body: of the loop.
        first: those that hold it at the top of the body.
        line: in front of which they are looked at.
    """
    known = dict(first)
    nodes = [node for node in nodes_in(body, *OTHERS) if getattr(node, "lineno", line) < line]
    for node in sorted((node for node in nodes if isinstance(node, ast.stmt)), key=lambda node: node.lineno):
        for to, value in assignments_in([node]):
            name, (inner, more) = dotted(to), without_added(value)
            held = known.get(dotted(inner))
            known.pop(name, None)
            if held is not None and name:
                known[name] = held + more
        if isinstance(node, ast.AugAssign) and dotted(node.target) in known and ast.unparse(node.value) == "1":
            known[dotted(node.target)] += 1
    return known


def without_leaving(statement: ast.stmt) -> Iterator[ast.stmt]:
    """The statements of one that go on to the next turn of a loop, and are not for the best alone."""
    if isinstance(statement, ast.If):
        for block, test in ((statement.body, ast.unparse(statement.test)), (statement.orelse, "")):
            if block and not isinstance(block[-1], ast.Break | ast.Return | ast.Raise) and not BEST.search(test):
                for inner in block:
                    yield from without_leaving(inner)
    elif isinstance(statement, ast.With | ast.Try):
        for inner in statement.body:
            yield from without_leaving(inner)
    elif not isinstance(statement, ast.For | ast.While):
        yield statement
