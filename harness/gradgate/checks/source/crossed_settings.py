"""Calls of a trainer's source in which two settings have changed places."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from gradgate.checks.source.places import Place
from gradgate.checks.source.setting_sections import asked
from gradgate.checks.source.trainer import File, dotted
from gradgate.checks.source.values import last_name
from gradgate.subjects.argument_calls import argument_call

SHORT = 3  # letters; a shorter word is too common to tell
SPELT = {"lmbda": "lambda", "lambd": "lambda", "lamda": "lambda", "discount": "gamma", "temp": "temperature"}


def number_settings(files: tuple[File, ...], contents: list[Any]) -> set[str]:
    """The names of settings that are numbers: fields with a default, arguments of a command line, keys of files."""
    found: set[str] = set()
    for node in (node for file in files for node in file.nodes):
        if (argument := argument_call(node)) is not None and argument.is_setting:
            found.add(argument.name)
        elif isinstance(node, ast.ClassDef):
            fields = (part for part in node.body if isinstance(part, ast.AnnAssign) and part.value is not None)
            found |= {dotted(field.target) for field in fields if _is_number(field.annotation)}
    for content in contents:
        found |= set(_numbers_in(content))
    return {name for name in found if len(name) >= SHORT}


def crossed(call: ast.Call, parameters: tuple[str, ...], place: Place, keys: set[str]) -> Iterator[tuple[str, str]]:
    """The arguments of a call that get each other's settings, in pairs."""
    if any(isinstance(value, ast.Starred) for value in call.args):
        return
    given = [*zip(parameters, call.args, strict=False), *((word.arg or "", word.value) for word in call.keywords)]
    named = [(argument, key) for argument, value in given if (key := _key(value, place)) in keys and argument]
    for (one, key), (other, other_key) in combinations(named, 2):
        straight = _is_like(key, one) or _is_like(other_key, other)
        if _is_like(key, other) and _is_like(other_key, one) and not straight and not _is_like(one, other):
            yield one, other


def _key(value: ast.expr, place: Place, hops: int = 3) -> str:
    """The setting that an expression reads, or is called after."""
    while isinstance(value, ast.Call) and dotted(value.func) in ("float", "int") and value.args:
        value = value.args[0]
    if isinstance(value, ast.Name) and hops and (held := place.names.held(value)) is not value:
        return _key(held, place, hops - 1)
    if (question := asked(value)) is not None:
        return question[1]
    return last_name(value) if isinstance(value, ast.Name | ast.Attribute | ast.Subscript) else ""


def _is_like(one: str, other: str) -> bool:
    """Whether two names say one thing: `lam`, `gae_lambda` and `lmbda`."""
    ours, theirs = (_words(name) for name in (one, other))
    shorter, longer = sorted((ours, theirs), key=len)
    return bool(shorter) and all(any(_fit(word, each) for each in longer) for word in shorter)


def _fit(one: str, other: str) -> bool:
    return one == other or (min(len(one), len(other)) >= SHORT and (one.startswith(other) or other.startswith(one)))


def _words(name: str) -> list[str]:
    return [SPELT.get(word, word) for word in re.split(r"_+", name.lower()) if word]


def _is_number(annotation: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id in ("float", "int") for part in ast.walk(annotation))


def _numbers_in(content: Any) -> Iterator[str]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield str(key)
        yield from _numbers_in(value)
