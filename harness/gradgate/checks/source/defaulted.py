"""Settings that a number stands in for where they are 0: `config.coef or 0.1`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.trainer import dotted

MAY_BE_0 = re.compile(
    r"(^|_)(coef|coefficient|weight|alpha|beta|lambda|lam|gamma|dropout|warmup|warmup_steps|warmup_ratio|decay|ratio|"
    r"smoothing|penalty|margin|noise|patience)$"
)

EVERY = re.compile(r"(^|_)(eval|evaluate|val|validate|save|checkpoint|ckpt|log|sample)_(every|interval|freq|period)$")


def defaulted(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    """Where a setting's truth decides between it and a number, each with the setting as it is written.

    A setting is an attribute, or what `get` gives without a default, whose name is that of a number that 0 switches
    off; in a condition its truth may be meant.
    """
    asked = {id(part) for node in nodes for part in conditions(node)}
    for node in nodes:
        if id(node) in asked:
            continue
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and len(node.values) == 2:
            setting, other = node.values
        elif isinstance(node, ast.IfExp) and ast.unparse(node.test) == ast.unparse(node.body):
            setting, other = node.body, node.orelse
        else:
            continue
        name = _name(setting)
        if (MAY_BE_0.search(name) or EVERY.search(name)) and _is_number(other):
            yield node, ast.unparse(setting)


def conditions(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of what a statement asks."""
    if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
        yield from ast.walk(node.test)


def _name(node: ast.expr) -> str:
    """What a setting is called; anything else is empty."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        key = node.args[0] if len(node.args) == 1 else None
        return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
    return node.attr if isinstance(node, ast.Attribute) else ""


def _is_number(node: ast.expr) -> bool:
    """Whether it is a number but 0, or a constant by its name."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and bool(node.value)
    name = dotted(node).rpartition(".")[2]
    return name.isupper() or name.startswith("DEFAULT")
