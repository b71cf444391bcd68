"""What a trainer runs once a batch where the optimizer steps once in several, for the checks that read its source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from gradgate.checks.source.accumulation import Body, Methods, alternatives, every, turns_in
from gradgate.checks.source.trainer import File, Function, dotted, nodes_in
from gradgate.checks.source.values import OTHERS, Names, own_nodes, places_of


@dataclass(frozen=True)
class Turn:
    """What runs once a batch, goes backward, and steps an optimizer once in several.

    Args:
        function: in which it stands.
        body: a loop, or the function itself where loops call it.
        branch: whose condition says whether a turn steps.
        test: the condition, as an `Accumulation` has it.
        stepping: the statements that run then.
        when: the condition as it is written.
    """

    function: Function
    body: Body
    branch: ast.If
    test: ast.expr
    stepping: tuple[ast.stmt, ...]
    when: str

    @cached_property
    def taken(self) -> frozenset[int]:
        """The `id` of each node of what steps."""
        return frozenset(id(node) for part in self.stepping for node in ast.walk(part))

    @cached_property
    def others(self) -> list[ast.AST]:
        """The nodes of its body beside those that step."""
        return [node for node in nodes_in(self.body.body, *OTHERS) if id(node) not in self.taken]

    @cached_property
    def counted(self) -> tuple[ast.expr, ast.expr] | None:
        """What is counted, and how many of it an update has."""
        return next(filter(None, map(every, alternatives(self.test))), None)

    @property
    def targets(self) -> set[str]:
        """What the loop assigns at each turn."""
        return (
            {ast.unparse(place) for place in places_of(self.body.target)} if isinstance(self.body, ast.For) else set()
        )


class Own:
    """The functions of a file, by the calls of them: of a name, or of a method of `self`."""

    def __init__(self, file: File) -> None:
        self._functions = {function.name: function for function, _ in file.functions}

    def called(self, call: ast.AST) -> Function | None:
        """The file's function that a call goes to."""
        if not isinstance(call, ast.Call):
            return None
        return self._functions.get(dotted(call.func).removeprefix("self."))

    def all_called(self, nodes: Iterable[ast.AST]) -> list[Function]:
        """The file's functions that these nodes call."""
        return [function for node in nodes if (function := self.called(node)) is not None]

    def raised(self, nodes: Iterable[ast.AST], hops: int = 3) -> set[str]:
        """What these nodes count on, as it is written; attributes also in the file's functions that they call."""
        found = set()
        for node in nodes:
            found |= raised_by(node)
            if hops and (function := self.called(node)):
                found |= {text for text in self.raised(own_nodes(function), hops - 1) if "." in text}
        return found


def raised_by(node: ast.AST) -> set[str]:
    """What a statement counts on, as it is written."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return {ast.unparse(node.target)}
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Add):
        terms = {ast.unparse(node.value.left), ast.unparse(node.value.right)}
        return {text for target in node.targets if (text := ast.unparse(target)) in terms}
    return set()


def read_in(node: ast.AST) -> set[str]:
    """The names, attributes and items that an expression reads, as they are written."""
    kinds = ast.Name | ast.Attribute | ast.Subscript
    return {ast.unparse(part) for part in ast.walk(node) if isinstance(part, kinds)}


def turns_of(file: File, methods: Methods) -> Iterator[Turn]:
    """Those of a file's loops, and of its functions that run one."""
    for function, _ in file.functions:
        nodes, names = own_nodes(function), Names(function)
        for found in turns_in(function, nodes, names, methods):
            yield Turn(function, *found)
