"""Merges of configurations that go one level deep, and sections that have sections of their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradgate.checks.source.settings import SETTINGS
from gradgate.checks.source.trainer import Function, called_name, dotted

MERGES = re.compile(
    r"merg|overr|overwr|overlay|extend|combin|layer|inherit|preset|default|resolve|compos|config|cfg|recipe|nested|deep|"
    r"sections?(_|$)",
    re.IGNORECASE,
)
DEEP = 3  # mappings in one another, of which the innermost is a section of a section


def has_inner_sections(classes: Mapping[str, ast.ClassDef], contents: Sequence[Any]) -> bool:
    """Whether a section of a configuration has a section: of its classes, or in its files."""
    settings = {name: node for name, node in classes.items() if _is_of_settings(node)}
    inner = {name for name, node in settings.items() if has_field_of(node, settings)}
    return any(has_field_of(node, inner) for node in settings.values()) or any(map(_is_deep, contents))


def _is_of_settings(node: ast.ClassDef) -> bool:
    bases = {dotted(base).rpartition(".")[2] for base in node.bases}
    return node.name.lower().endswith((*SETTINGS, "section", "spec")) or "BaseModel" in bases


def has_field_of(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef] | set[str]) -> bool:
    """Whether a class has a field that is of one of these classes."""
    fields = [part.annotation for part in node.body if isinstance(part, ast.AnnAssign)]
    return any(isinstance(part, ast.Name) and part.id in classes for field in fields for part in ast.walk(field))


def _is_deep(content: Any, depth: int = DEEP) -> bool:
    if depth == 0:
        return True
    return isinstance(content, Mapping) and any(depth == 1 or _is_deep(one, depth - 1) for one in content.values())


def one_level(function: Function, nodes: Sequence[ast.AST]) -> Iterator[ast.expr | ast.stmt]:
    """Where a function goes through the sections of a mapping and puts each into another's as a whole, key by key."""
    if not MERGES.search(function.name):
        return
    for node in nodes:
        if isinstance(node, ast.For):
            pair, inside = _pair(node), [part for one in node.body for part in ast.walk(one)]
        elif isinstance(node, ast.DictComp):
            pair, inside = _pair(node.generators[0]), list(ast.walk(node.value))
        else:
            continue
        if pair is not None:
            yield from (part for part in inside if isinstance(part, ast.expr | ast.stmt) and _puts(part, *pair))


def _pair(loop: ast.For | ast.comprehension) -> tuple[str, str] | None:
    """The key and the value of a loop over a mapping's items."""
    over, target = loop.iter, loop.target
    is_items = isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "items"
    if not is_items or not isinstance(target, ast.Tuple) or len(target.elts) != 2:
        return None
    return dotted(target.elts[0]), dotted(target.elts[1])


def _puts(node: ast.AST, key: str, value: str) -> bool:
    """Whether a section is put into the one of its key, of which what stands deeper is replaced."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
        return len(node.args) == 1 and _reads(node.func.value, key) and _is_whole(node.args[0], value)
    if isinstance(node, ast.Dict) and len(node.keys) > 1 and node.keys[-1] is None and node.keys[0] is None:
        return _is_whole(node.values[-1], value) and _reads(node.values[0], key)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _is_whole(node.right, value) and _reads(node.left, key)
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr):
        return _is_whole(node.value, value) and _reads(node.target, key)
    pair = _pair(node) if isinstance(node, ast.For) else None
    if not isinstance(node, ast.For) or pair is None or not _is_items_of(node.iter, value):
        return False
    only = node.body[0] if len(node.body) == 1 else None
    target = only.targets[0] if isinstance(only, ast.Assign) else None
    is_deeper = isinstance(target, ast.Subscript) and dotted(target.slice) == pair[0] and _reads(target.value, key)
    return is_deeper and isinstance(only, ast.Assign) and _is_whole(only.value, pair[1])


def _is_items_of(over: ast.expr, value: str) -> bool:
    return isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and dotted(over.func.value) == value


def _is_whole(node: ast.expr, value: str) -> bool:
    """Whether something is a value itself, or a copy of it."""
    while isinstance(node, ast.Call) and called_name(node) in ("deepcopy", "copy", "dict") and node.args:
        node = node.args[0]
    node = node.values[0] if isinstance(node, ast.BoolOp) else node
    return dotted(node) == value


def _reads(node: ast.expr, key: str) -> bool:
    """Whether something is looked up in a mapping by a key."""
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and dotted(part.slice) == key:
            return True
        if isinstance(part, ast.Call) and part.args and dotted(part.args[0]) == key:
            return True
    return False
