"""Exchanging the code of a live function for one with a statement changed: no file is written or imported anew."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import _lru_cache_wrapper, lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from gradgate.core.origin import is_own_code
from gradgate.faults.operators import Function, Variant, functions


@dataclass(frozen=True, slots=True)
class Trial:
    """One change of one live function.

    Args:
        function: live.
        variant: the change.
        node: the function's source.
        path: its dotted path in the file.
    """

    function: FunctionType
    variant: Variant
    node: Function
    path: tuple[str, ...]


@contextmanager
def exchanged(trial: Trial) -> Iterator[bool]:
    """The function with the change in the block; whether it could be made."""
    code = _changed(trial)
    before = trial.function.__code__
    try:
        if code is not None:
            trial.function.__code__ = code
    except ValueError:  # other free variables
        code = None
    try:
        with forgotten(_memories(len(sys.modules))):
            yield code is not None
    finally:
        trial.function.__code__ = before


@contextmanager
def forgotten(memories: Sequence[Any]) -> Iterator[None]:
    """What functions remember is of the code that answered: forgotten before the block, and behind it."""
    for each in memories:
        each.cache_clear()
    try:
        yield
    finally:
        for each in memories:
            each.cache_clear()


def memories() -> tuple[Any, ...]:
    """The user's functions under `lru_cache` or `cache`."""
    found = [each for each in gc.get_objects() if type(each) is _lru_cache_wrapper]
    codes = [getattr(each.__wrapped__, "__code__", None) for each in found]
    return tuple(each for each, code in zip(found, codes, strict=True) if code and is_own_code(code.co_filename))


@lru_cache(maxsize=1)
def _memories(_modules: int) -> tuple[Any, ...]:
    """The same for trials of milliseconds; looked for again once more is imported."""
    return memories()


def is_of(code: CodeType, node: Function) -> bool:
    """Whether code was compiled from a function of the source."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return code.co_name == node.name and code.co_firstlineno == first


def _changed(trial: Trial) -> CodeType | None:
    file = trial.function.__code__.co_filename
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    node = next(node for path, node in functions(tree) if path == trial.path and node.lineno == trial.node.lineno)
    try:
        after = ast.parse(trial.variant.after or "pass").body
    except SyntaxError:
        return None
    if not _splice(node, trial.variant, after):
        return None
    try:
        module = compile(ast.fix_missing_locations(tree), file, "exec")
    except (SyntaxError, ValueError):
        return None
    return next((code for code in codes_in(module) if is_of(code, node)), None)


def _splice(node: Function, variant: Variant, after: Sequence[ast.stmt]) -> bool:
    for holder in ast.walk(node):
        for body in (getattr(holder, name, None) for name in ("body", "orelse", "finalbody")):
            for index, statement in enumerate(body if isinstance(body, list) else ()):
                ends = statement.end_lineno or statement.lineno
                if statement.lineno <= variant.line <= ends and ast.unparse(statement) == variant.before:
                    assert isinstance(body, list)  # noqa: S101 - it was walked
                    body[index : index + 1] = [ast.copy_location(new, statement) for new in after]
                    return True
    return False


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code of every function and class inside compiled code, however deep."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes_in(constant)
