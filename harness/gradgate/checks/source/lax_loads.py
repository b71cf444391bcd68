"""Loads of a trainer's source that fail without a word: what does not fit is dropped, or an error is caught."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.saved_mappings import LOADS, SAVES
from gradgate.checks.source.trainer import File, dotted

EXPECTED = ("FileNotFoundError", "ImportError", "ModuleNotFoundError")  # says that there is nothing to load


def unstrict(file: File) -> Iterator[tuple[File, ast.AST, str, str]]:
    """Loads that are not strict, whose list of keys is dropped."""
    for node in file.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            lax = any(
                keyword.arg == "strict" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                for keyword in call.keywords
            )
            if lax and dotted(call.func).endswith("load_state_dict"):
                told = "load_state_dict(strict=False) drops its list of keys that do not fit: those keep random numbers"
                yield file, node, "", told


def swallowed(file: File) -> Iterator[tuple[File, ast.AST, str, str]]:
    """Handlers around saving or loading that go on."""
    for node in file.nodes:
        if not isinstance(node, ast.Try):
            continue
        inside = [dotted(inner.func) for part in node.body for inner in ast.walk(part) if isinstance(inner, ast.Call)]
        touched = [name for name in inside if name in (*SAVES, *LOADS) or name.endswith("load_state_dict")]
        for handler in node.handlers if touched else ():
            caught = ast.unparse(handler.type) if handler.type else ""
            ends = any(isinstance(inner, ast.Raise | ast.Call) and _leaves(inner) for inner in ast.walk(handler))
            if not ends and not any(name in caught for name in EXPECTED) and not _tries_again(handler):
                told = f"a failing {touched[0]}() is caught, and training goes on as if nothing had been"
                yield file, handler, "", told


def _leaves(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and dotted(node.func) in ("sys.exit", "exit"))


def _tries_again(handler: ast.ExceptHandler) -> bool:
    names = [dotted(inner.func) for inner in ast.walk(handler) if isinstance(inner, ast.Call)]
    return any(name in (*SAVES, *LOADS) or name.endswith("load_state_dict") for name in names)
