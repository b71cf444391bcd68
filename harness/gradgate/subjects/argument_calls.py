"""Calls of `add_argument` in a source, with the names that argparse gives what they declare."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ArgumentCall:
    """A command-line argument.

    Args:
        flag: by which it is given: the first long one, or the first; of a positional one its name.
        name: the attribute that it fills.
        words: the call's keywords.
    """

    flag: str
    name: str
    words: Mapping[str, ast.expr]

    @property
    def is_setting(self) -> bool:
        """Whether it fills anything: help and the version do not."""
        return getattr(self.words.get("action"), "value", "") not in ("help", "version")


def is_argument_call(node: ast.AST) -> bool:
    """Whether a node declares an argument."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"


def argument_call(node: ast.AST) -> ArgumentCall | None:
    """The argument that a node declares; None: it declares none, or its name is not written down."""
    if not isinstance(node, ast.Call) or not is_argument_call(node):
        return None
    words = {word.arg: word.value for word in node.keywords if word.arg is not None}
    flags = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if not flags or len(flags) < len(node.args):
        return None
    flag = next((each for each in flags if each.startswith("--")), flags[0])
    dest = words.get("dest")
    if dest is not None:
        return ArgumentCall(flag, dest.value, words) if _is_text(dest) else None  # type: ignore[attr-defined]
    return ArgumentCall(flag, flag.lstrip("-").replace("-", "_") if flag.startswith("-") else flag, words)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
