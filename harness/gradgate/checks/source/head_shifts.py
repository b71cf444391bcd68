"""Loops over heads that take a row's tokens by as much as each head is ahead, for the checks that read the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradgate.checks.source.places import Place
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import Names

HEAD = "<head>"  # the loop's own number in a sum
NUMBER = ""  # what is added to it
HOPS = 4  # names that are followed

Sum = dict[str, int]


@dataclass(frozen=True)
class HeadLoop:
    """A loop over the heads, which count from 0 or 1.

    Args:
        place: the function that it stands in.
        loop: itself.
        head: the name of a head's number.
        count: how many heads there are, as it is written.
    """

    place: Place
    loop: ast.For
    head: str
    count: ast.expr

    @property
    def nodes(self) -> Iterator[ast.AST]:
        """What stands in it."""
        for statement in self.loop.body:
            yield from ast.walk(statement)

    def sum_of(self, node: ast.expr | None) -> Sum | None:
        """What an expression adds up: how often each name, the head and 1 are in it; None: it is no such sum."""
        return sum_of(node, self.place.names, self.head)

    def moves(self, part: ast.Slice) -> bool:
        """Whether a slice begins the further behind, the further ahead a head is."""
        begin = self.sum_of(part.lower)
        return part.lower is not None and begin is not None and begin.get(HEAD, 0) > 0

    @property
    def is_ahead(self) -> bool:
        """Whether something is taken, or rolled, by as much as a head is ahead."""
        for node in self.nodes:
            if isinstance(node, ast.Slice) and self.moves(node):
                return True
            if isinstance(node, ast.Call):
                given = given_by(node)
                counts = [(self.sum_of(each) or {}).get(HEAD, 0) for each in given]
                if called_name(node) == "roll" and any(count < 0 for count in counts):
                    return True
                if dotted(node.func) == "slice" and len(counts) > 1 and counts[0] > 0:
                    return True
        return False


def head_loops(place: Place) -> Iterator[HeadLoop]:
    """The loops of a function in which something is moved by as much as a head is ahead."""
    for node in place.nodes:
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and node.iter.args:
            name = dotted(node.iter.func)
            target = node.target.elts[0] if isinstance(node.target, ast.Tuple) and node.target.elts else node.target
            if name not in ("range", "enumerate") or not isinstance(target, ast.Name):
                continue
            count = node.iter.args[0] if name == "enumerate" or len(node.iter.args) == 1 else node.iter.args[1]
            found = HeadLoop(place, node, target.id, count)
            if found.is_ahead:
                yield found


def sum_of(node: ast.expr | None, names: Names, head: str, hops: int = HOPS) -> Sum | None:
    """What an expression adds up; nothing is 0."""
    if node is None:
        return {}
    if isinstance(node, ast.Constant):
        return {NUMBER: node.value} if isinstance(node.value, int) else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _times(sum_of(node.operand, names, head, hops), -1)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        sign = 1 if isinstance(node.op, ast.Add) else -1
        left, right = sum_of(node.left, names, head, hops), _times(sum_of(node.right, names, head, hops), sign)
        return None if left is None or right is None else added(left, right)
    if isinstance(node, ast.Name) and node.id == head:
        return {HEAD: 1}
    if isinstance(node, ast.Name) and hops and (held := names.held(node)) is not node:
        made = sum_of(held, names, head, hops - 1)
        return made if made is not None else {node.id: 1}
    is_size = isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call)
    return {ast.unparse(node): 1} if is_size and not _has(node, head) else None


def added(left: Sum, right: Sum) -> Sum:
    """One sum and another."""
    both = {key: left.get(key, 0) + right.get(key, 0) for key in {*left, *right}}
    return {key: count for key, count in both.items() if count}


def less(left: Sum, right: Sum) -> Sum:
    """What one sum is more than another."""
    return added(left, {key: -count for key, count in right.items()})


def _times(held: Sum | None, sign: int) -> Sum | None:
    return None if held is None else {key: sign * count for key, count in held.items()}


def _has(node: ast.expr, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node))


def slices_of(node: ast.Subscript) -> Sequence[ast.Slice]:
    """The slices that a tensor is taken by."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return [part for part in parts if isinstance(part, ast.Slice)]
