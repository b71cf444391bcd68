"""What a trainer's source calls what is for training and what is for an evaluation, for the checks that tell them."""

from __future__ import annotations

import ast
import re

from gradgate.checks.source.trainer import dotted

EVALUATION = re.compile(
    r"(^|_)(eval|evaluate|evaluation|val|valid|validate|validation|held|held_?out|holdout|test|dev)(_|$)", re.IGNORECASE
)
TRAINING = re.compile(r"(^|_)(train|training|fit)(_|$)", re.IGNORECASE)


def given_names(node: ast.AST) -> list[str]:
    """What a keyword or an assignment calls the value in it; anything else has no name for it."""
    if isinstance(node, ast.keyword):
        return [node.arg] if node.arg else []
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [dotted(target).rpartition(".")[2] for target in targets]
    return []
