"""Settings of one section that nothing reads while another section's of the same name are read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.settings import Setting, declared_settings
from gradgate.checks.source.trainer import File, called_name
from gradgate.checks.source.values import last_name

CONFIGURATION = re.compile(r"(^|_)(config|cfg|conf|settings|hparams)(_|$)", re.IGNORECASE)
FIELD = "field of "
WHOLE = ("model_dump", "dict", "asdict", "vars", "fields", "items", "getattr")


def unread_in_sections(files: Sequence[File]) -> Iterator[Setting]:
    """Fields of a section's class that are never read of that section, though of others.

    Only where every read of the name says which section it is of (`cfg.train.max_steps`), none is of this one, and this
    one is never taken apart as a whole (`model_dump`, `asdict`, `vars`).
    """
    sections = _sections(files)
    if not sections:
        return
    known = {name for names in sections.values() for name in names}
    nodes = [node for file in files for node in file.nodes]
    reads: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            reads.setdefault(node.attr, set()).add(_section_of(node.value))
    texts = {part for node in nodes if isinstance(node, ast.Constant) for part in str(node.value).split(".")}
    taken = {name for node in nodes if isinstance(node, ast.Call) for name in _taken_apart(node)}
    for owner, setting in _fields(files):
        own = sections.get(owner, set())
        there = reads.get(setting.name, set())
        if own and there and there <= known - own and not own & taken and setting.name not in texts:
            yield setting


def _sections(files: Sequence[File]) -> dict[str, set[str]]:
    """Classes of settings, each with the names of the sections that are of it."""
    owners = {owner for owner, _ in _fields(files)}
    found: dict[str, set[str]] = {}
    for file in files:
        for node in file.nodes:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                kinds = {part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)} & owners
                for kind in kinds:
                    found.setdefault(kind, set()).add(node.target.id)
    return found


def _section_of(node: ast.expr) -> str:
    """The section that an expression is, by its name in a configuration; empty: it may be any."""
    whole = isinstance(node, ast.Attribute) and CONFIGURATION.search(last_name(node.value))
    return node.attr if whole and isinstance(node, ast.Attribute) else ""


def _fields(files: Sequence[File]) -> list[tuple[str, Setting]]:
    """The fields of configuration classes, each with its class."""
    settings = (setting for file in files for setting in declared_settings(file))
    return [(setting.what.removeprefix(FIELD), setting) for setting in settings if setting.what.startswith(FIELD)]


def _taken_apart(call: ast.Call) -> Iterator[str]:
    """The sections that a call takes as a whole: of which, or with which, it makes a mapping, or asks by a name."""
    name = called_name(call)
    if name in WHOLE:
        of = [call.func.value] if isinstance(call.func, ast.Attribute) else []
        yield from (last_name(each) for each in (*of, *call.args[:1]))
    yield from (last_name(word.value) for word in call.keywords if word.arg is None)
