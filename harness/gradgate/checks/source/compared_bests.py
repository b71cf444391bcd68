"""Where a trainer's source holds a score against the best so far: what is compared, and which of the two is better."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.given_scores import Given
from gradgate.checks.source.trainer import Function, called_name, dotted
from gradgate.checks.source.values import Names, assignments_in, last_name, own_nodes

BEST = re.compile(r"(^|_)best(_|$)", re.IGNORECASE)
OF_MANY = {"max": ">", "argmax": ">", "nanargmax": ">", "min": "<", "argmin": "<", "nanargmin": "<"}
TURNED = {"<": ">", ">": "<"}
SIGNS: dict[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<", ast.Gt: ">", ast.GtE: ">"}


@dataclass(frozen=True)
class Compared:
    """A best, and what it is compared with.

    Args:
        sign: `<` where a smaller one is better.
        alone: whether nothing else than this comparison makes a best.
    """

    best: ast.expr
    score: ast.expr
    sign: str
    node: ast.expr
    alone: bool


def compared_bests(function: Function, given: Given) -> Iterator[Compared]:
    """The bests of a function."""
    nodes, names = own_nodes(function), Names(function)
    for node in nodes:
        if isinstance(node, ast.If):
            test = given.compared(names.held(node.test))
            for compared in _compares(test):
                for best, score, sign in _sides(compared):
                    alone = not any(isinstance(part, ast.BoolOp) for part in ast.walk(test))
                    if _gives(node.body, best):
                        yield Compared(best, score, sign, compared, alone)
                    elif _gives([part for part in node.orelse if not isinstance(part, ast.If)], best):
                        yield Compared(best, score, TURNED[sign], compared, alone)
    for target, value in assignments_in(nodes):
        if not BEST.search(last_name(target)):
            continue
        if isinstance(value, ast.IfExp):
            for compared in _compares(value.test):
                for best, score, sign in _sides(compared):
                    if ast.unparse(best) == ast.unparse(target):
                        better = ast.unparse(value.orelse) == ast.unparse(best)
                        yield Compared(best, score, sign if better else TURNED[sign], compared, True)
        elif isinstance(value, ast.Call) and (sign := OF_MANY.get(called_name(value), "")):
            yield from _of_many(target, value, sign, nodes)


def _of_many(target: ast.expr, value: ast.Call, sign: str, nodes: list[ast.AST]) -> Iterator[Compared]:
    """A best that `max` or `min` takes, of itself and another, or of many, or of rows that begin with a score."""
    others = [each for each in value.args if ast.unparse(each) != ast.unparse(target)]
    if len(value.args) == 2 and len(others) == 1:
        yield Compared(target, others[0], sign, value, True)
    elif len(value.args) == 1 and not value.keywords:
        rows = list(_rows_of(dotted(value.args[0]), nodes))
        yield from (Compared(target, each, sign, value, False) for each in rows[:1] or value.args)
    elif isinstance(value.func, ast.Attribute) and not value.args and dotted(value.func.value):
        yield Compared(target, value.func.value, sign, value, False)


def _rows_of(name: str, nodes: list[ast.AST]) -> Iterator[ast.expr]:
    """What the rows begin with that a list is given."""
    for node in nodes:
        if isinstance(node, ast.Call) and name and dotted(node.func) == f"{name}.append" and len(node.args) == 1:
            row = node.args[0]
            yield from row.elts[:1] if isinstance(row, ast.Tuple | ast.List) else ()


def _compares(test: ast.expr) -> list[ast.Compare]:
    parts = test.values if isinstance(test, ast.BoolOp) else [test]
    return [part for part in parts if isinstance(part, ast.Compare) and len(part.ops) == 1]


def _sides(node: ast.Compare) -> Iterator[tuple[ast.expr, ast.expr, str]]:
    """The best of a comparison, what it is compared with, and the sign, the best on the right."""
    sign = SIGNS.get(type(node.ops[0]), "")
    for left, right, turned in ((node.left, node.comparators[0], sign), (node.comparators[0], node.left, "")):
        best = right.left if isinstance(right, ast.BinOp) and isinstance(right.op, ast.Add | ast.Sub) else right
        if sign and BEST.search(last_name(best)) and not BEST.search(last_name(left)):
            yield best, left, turned or TURNED[sign]


def _gives(block: list[ast.stmt], best: ast.expr) -> bool:
    """Whether statements give a best something new."""
    nodes = [node for part in block for node in ast.walk(part)]
    return any(ast.unparse(target) == ast.unparse(best) for target, _ in assignments_in(nodes))
