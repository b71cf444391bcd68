"""Seeds whose truth decides whether anything is seeded: `if cfg.seed: torch.manual_seed(cfg.seed)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.trainer import called_name, nodes_in
from gradgate.checks.source.values import last_name

SEED = re.compile(r"(^|_)seed$")
SEEDS = re.compile(r"seed|^(Random|RandomState|default_rng|Generator)$")


def seed_truths(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    """Where a seed's truth decides whether it is used, each with the seed as it is written.

    A branch that seeds with it, where another seeds with nothing else; one that leaves in front of such a call; and
    what stands in for it in `seed or other`, unless that is 0.
    """
    asked = {id(part) for node in nodes if isinstance(node, ast.If | ast.While | ast.Assert)
             for part in ast.walk(node.test)}  # fmt: skip
    for node in nodes:
        if isinstance(node, ast.If):
            yield from _of_branch(node, nodes)
        elif isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and id(node) not in asked:
            yield from _stood_in_for(node, node.values[0], node.values[-1])
        elif isinstance(node, ast.IfExp) and ast.unparse(node.test) == ast.unparse(node.body):
            yield from _stood_in_for(node, node.body, node.orelse)


def _of_branch(node: ast.If, nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    test = node.test
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        behind = [part for part in nodes if getattr(part, "lineno", 0) > (node.end_lineno or 0)]
        leaves = isinstance(node.body[-1], ast.Return) and len(node.body) == 1 and not node.orelse
        if leaves and _is_seed(test.operand) and _seeds(behind, ast.unparse(test.operand)):
            yield node, ast.unparse(test.operand)
        return
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
    for part in parts:
        if _is_seed(part) and not node.orelse and _seeds(list(nodes_in(node.body)), ast.unparse(part)):
            yield node, ast.unparse(part)


def _stood_in_for(node: ast.expr, seed: ast.expr, other: ast.expr) -> Iterator[tuple[ast.AST, str]]:
    if _is_seed(seed) and not (isinstance(other, ast.Constant) and other.value == 0 and other.value is not False):
        yield node, ast.unparse(seed)


def _is_seed(node: ast.expr) -> bool:
    """Whether an expression is a seed by its name: a variable, an attribute, an entry."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        key = node.args[0]
        return len(node.args) == 1 and isinstance(key, ast.Constant) and bool(SEED.search(str(key.value)))
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and bool(SEED.search(last_name(node).lower()))


def _seeds(nodes: Sequence[ast.AST], seed: str) -> bool:
    """Whether a call that seeds is given a seed."""
    return any(
        isinstance(node, ast.Call)
        and bool(SEEDS.search(called_name(node)))
        and seed in map(ast.unparse, (part for given in (*node.args, *node.keywords) for part in ast.walk(given)
                                      if isinstance(part, ast.expr)))
        for node in nodes
    )  # fmt: skip
