"""Numbered checkpoints that a trainer names as the best, and deletes when they are old."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, calls_in, dotted
from gradgate.checks.source.values import assignments_in, with_stars

DELETES = ("unlink", "remove", "rmtree")
THERE = re.compile(r"(\.|^)(exists|is_file|is_dir|isfile|isdir)\(")
BEST = re.compile(r"best", re.IGNORECASE)
OF_FILE = re.compile(r"path|file|ckpt|checkpoint|snapshot", re.IGNORECASE)
NOTE = re.compile(r"best.*\.(json|txt|ya?ml)$", re.IGNORECASE)
WEIGHTS = re.compile(r"best.*\.(pt|pth|ckpt|bin|safetensors|tar)$", re.IGNORECASE)
WRITES = ("write_text", "dump", "safe_dump", "write")
TAKES_CARE = re.compile(
    r"copy|\b(link|move)\b|symlink|hardlink|protect|exclu|pinned|spare|retain|rename", re.IGNORECASE
)
DEPTH = 2  # calls that are followed


@dataclass(frozen=True)
class Pointer:
    """A note of which numbered file is the best.

    Args:
        pattern: by which old files are listed.
        name: of the file, with `*` for its number.
        pruning: the function that deletes.
    """

    place: Place
    node: ast.AST
    name: str
    pattern: str
    pruning: Place


def pointers(own: Places) -> Iterator[Pointer]:
    """The notes of classes that delete what they name, and look at no note as they do."""
    for pruning in own.functions:
        if pruning.owner is None or not pruning.file.has(*DELETES) or not _prunes(pruning):
            continue
        methods = own.methods_of(pruning.owner)
        patterns = list(_patterns(pruning, own)) if not _takes_care(pruning, methods, own) else []
        for place in methods if patterns else ():
            found = next(_noted(place, patterns, own), None)
            if found is not None:
                yield Pointer(place, *found, pruning)
                break


def is_known(test: ast.expr) -> bool:
    """Whether a condition asks whether a file is there, or how many there are, and nothing of its name."""
    text = ast.unparse(test)
    return bool(THERE.search(text)) or "len(" in text


def _prunes(place: Place) -> bool:
    """Whether a function deletes files of a list but for the last, whatever they are called."""
    for loop in place.nodes:
        if isinstance(loop, ast.For) and any(called_name(call) in DELETES for call in calls_in(loop)):
            some = any(isinstance(part, ast.Slice) for part in place.names.parts(loop.iter))
            if some and all(is_known(node.test) for node in ast.walk(loop) if isinstance(node, ast.If)):
                return True
    return False


def _takes_care(pruning: Place, methods: list[Place], own: Places) -> bool:
    """Whether the best is spared as files are deleted, or is a file of its own."""
    texts = [ast.unparse(place.function) for place in _reached(pruning, own, DEPTH)]
    texts += [ast.unparse(call) for _, call in own.calls_of(pruning.name)]
    if any(BEST.search(text) or TAKES_CARE.search(text) for text in texts):
        return True
    for place in methods:
        for node in place.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and WEIGHTS.search(node.value):
                return True
            if isinstance(node, ast.Call) and TAKES_CARE.search(called_name(node)):
                return True
    return False


def _reached(place: Place, own: Places, depth: int) -> Iterator[Place]:
    yield place
    for node in place.nodes if depth else ():
        if isinstance(node, ast.Call) and (called := own.called(node, place)) is not None:
            yield from _reached(called, own, depth - 1)


def _patterns(pruning: Place, own: Places) -> Iterator[str]:
    for place in _reached(pruning, own, DEPTH):
        for call in calls_in(place.function):
            if called_name(call) == "glob" and call.args and isinstance(call.args[0], ast.Constant):
                yield str(call.args[0].value)


def _noted(place: Place, patterns: list[str], own: Places) -> Iterator[tuple[ast.AST, str, str]]:
    """Where a function notes a numbered file as the best, with its name and the pattern that fits it."""
    nodes = place.nodes
    values: list[tuple[ast.AST, ast.expr]] = []
    for target, value in assignments_in(nodes):
        name = dotted(target)
        if name.startswith("self.") and BEST.search(name) and OF_FILE.search(name) and _is_read(name[5:], own):
            values.append((value, value))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for call in (node for node in nodes if isinstance(node, ast.Call) and called_name(node) in WRITES and node.args):
        if any(NOTE.search(text) for text in texts):
            values.append((call, call.args[0]))
        for part in place.names.parts(call.args[0]):
            for key, value in zip(part.keys, part.values, strict=True) if isinstance(part, ast.Dict) else ():
                if isinstance(key, ast.Constant) and BEST.match(str(key.value)):
                    values.append((call, value))
    for node, value in values:
        for name in _numbered(value, place, own, DEPTH):
            for pattern in patterns:
                if fnmatchcase(name.replace("*", "1"), pattern):
                    yield node, name, pattern


def _is_read(name: str, own: Places) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
        for place in own.functions
        if place.file.has(name)
        for node in place.nodes
    )


def _numbered(value: ast.expr, place: Place, own: Places, depth: int) -> Iterator[str]:
    """The names of numbered files in an expression, or in what it calls."""
    for part in place.names.parts(value):
        if isinstance(part, ast.JoinedStr):
            yield with_stars(part).rpartition("/")[2]
        elif isinstance(part, ast.Call) and depth and (called := own.called(part, place)) is not None:
            for node in called.nodes:
                if isinstance(node, ast.Return) and node.value is not None:
                    yield from _numbered(node.value, called, own, depth - 1)
