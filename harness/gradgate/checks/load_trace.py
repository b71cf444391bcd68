"""What a save or a load of a run reads, writes and gives away, by own line."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

import torch

from gradgate.checks.own_lines import Line, OwnLines, heads_of, is_torch

_MOST = 32  # ways to one key
_WRITERS = ("save", "dump", "dumps", "save_file")


@dataclass(frozen=True)
class Put:
    """A line that writes a part: an assignment, a `load_state_dict`, a `set_rng_state`; no `key`: all of it."""

    owner: Any
    key: str
    way: tuple[Line, ...]
    assign: bool = False


@dataclass
class Read:
    """A key of what was saved, and the lines that read it."""

    key: str
    ways: list[tuple[Line, ...]] = field(default_factory=list)


class LoadLines(OwnLines):
    """What a save or a load reads and writes, by line."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.puts: list[Put] = []
        self.taken: list[Put] = []  # calls of `state_dict`
        self.reads: dict[str, Read] = {}
        self.given: list[Any] = []  # to what writes files
        self.writing: list[tuple[Line, ...]] = []
        self.left: list[tuple[Mapping[Any, Any], Line]] = []  # mappings that own functions return, and their line
        self.buffers: list[tuple[Any, str, Line]] = []
        self.ran: dict[CodeType, list[int]] = {}
        self._last: Line | None = None
        self._states: set[bytes] = set()  # of torch's generator, that were asked for

    def behind(self, line: Line) -> None:
        """Look at what the line has done."""
        self._last = line
        lines = self.ran.setdefault(line[0], [])
        if not lines or lines[-1] != line[1]:
            lines.append(line[1])
        keys, stores = _facts(line)
        if keys or stores:
            self._look(keys, stores, self.frames[-1], tuple(self.way()))

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        if not self.frames or self.is_own(frame.f_code):
            return
        name, given, way = frame.f_code.co_name, frame.f_locals, tuple(self.way())
        if is_torch(frame, "load_state_dict"):
            self.puts.append(Put(given.get("self"), "", way, bool(given.get("assign"))))
        elif is_torch(frame, "get_rng_state"):
            self._states.add(_bytes(torch.default_generator.get_state()))
        elif is_torch(frame, "set_rng_state") and _bytes(given.get("new_state")) not in self._states:
            self.puts.append(Put("rng", "", way))  # what was asked for before is only put back
        elif is_torch(frame, "manual_seed") and any(way[-1][0] is read[-1][0] for read in self._ways()):
            self.puts.append(Put("rng", "", way))  # where what was saved is read
        elif is_torch(frame, "state_dict"):
            self.taken.append(Put(given.get("self"), "", way))
        elif is_torch(frame, "register_buffer") and not given.get("persistent", True):
            self.buffers.append((given.get("self"), str(given.get("name")), way[-1]))
        elif name in _WRITERS and ("obj" in given or "tensors" in given):
            self.given.append(given.get("obj", given.get("tensors")))
            self.writing.append(way)

    def _ways(self) -> Iterator[tuple[Line, ...]]:
        """The lines that lead to what reads a key."""
        return (way for read in self.reads.values() for way in read.ways)

    def leaving(self, frame: FrameType, value: Any) -> None:
        """Note what an own function gives."""
        if isinstance(value, Mapping) and value:
            self.left.append((value, self._last or (frame.f_code, frame.f_lineno)))

    def _look(
        self, keys: Sequence[str], stores: Sequence[tuple[ast.expr, str]], frame: FrameType, way: tuple[Line, ...]
    ) -> None:
        for key in keys:
            ways = self.reads.setdefault(key, Read(key)).ways
            if way not in ways and len(ways) < _MOST:
                ways.append(way)
        for base, name in stores:
            owner = _value_of(base, frame)
            if owner is not None and not (frame.f_code.co_name == "__init__" and _is_self(base)):
                self.puts.append(Put(owner, name, way))


def _bytes(state: Any) -> bytes:
    return bytes(state.numpy().tobytes()) if isinstance(state, torch.Tensor) else b""


def _is_self(base: ast.expr) -> bool:
    """Whether an object writes to itself: in its constructor that brings nothing back."""
    return isinstance(base, ast.Name) and base.id == "self"


@lru_cache(maxsize=4096)
def _facts(line: Line) -> tuple[list[str], list[tuple[ast.expr, str]]]:
    """The keys that a line reads, and the objects and names that it assigns to."""
    keys, stores = [], []
    for node in (inner for head in heads_of(line) for inner in ast.walk(head)):
        key = _key_read(node)
        if key is not None:
            keys.append(key)
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            name = node.attr if isinstance(node, ast.Attribute) else _constant(node.slice)
            stores += [(node.value, name)] if name is not None else []
    return keys, stores


def _key_read(node: ast.AST) -> str | None:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return _constant(node.slice)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
        return _constant(node.args[0]) if node.args else None
    return None


def _constant(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _value_of(node: ast.AST, frame: FrameType) -> Any:
    """What a chain of names and attributes stands for, without calling anything."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value_of(node.value, frame)
        return getattr(owner, "__dict__", {}).get(node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        owner = _value_of(node.value, frame)
        with suppress(Exception):
            key: Any = node.slice.value
            return owner[key] if isinstance(owner, Mapping | list | tuple) else None
    return None
