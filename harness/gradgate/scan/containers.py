"""Methods of lists, dicts and arrays."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradgate.scan.frame import Frame
from gradgate.scan.values import Value, const, fresh, join, sequence, unknown

_ARRAY_WRITES = frozenset({"fill", "sort", "put", "partition", "itemset", "setfield"})
MOST = 16  # items of a container that are followed


def container_method(frame: Frame, node: ast.Call, base: Value, name: str, given: Sequence[Value]) -> Value | None:
    """The result of a method, or None where the container has no such method worth following."""
    if base.kind == "array":
        return _array(frame, node, base, name)
    items = base.items if base.items is not None else []
    if name in ("append", "add", "appendleft") and given:
        frame.run.kept(frame, node, given[0])
        base.items = [*items[: MOST - 1], given[0]]
        return const(None)
    if name == "insert" and len(given) > 1:
        base.items = [given[1], *items[: MOST - 1]]
        return const(None)
    if name in ("extend", "update") and given:
        base.items = [*items, *(given[0].items or [])][:MOST]
        return const(None)
    if name == "clear":
        base.items = []
        return const(None)
    if name == "items":
        return sequence([sequence([unknown(), item]) for item in items]) if items else unknown()
    if name in ("values", "copy"):
        return Value("seq", items=list(items))
    if name in ("pop", "get", "setdefault", "popleft") and items:
        found = items[-1]
        for item in items[:-1]:
            found = join(found, item)
        return found
    return None


def _array(frame: Frame, node: ast.Call, base: Value, name: str) -> Value:
    if name in _ARRAY_WRITES:
        frame.write(base, node, "array", name)
        return const(None)
    if name in ("reshape", "view", "ravel", "squeeze", "transpose"):
        return base
    return Value("array", frozenset((fresh(),)), name=base.name)
