"""What a change can bear on: faults in a function, or for a check, that it touches, and clean edits."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gradgate.core.errors import GradgateError
from gradgate.faults.catalogue import Fault
from gradgate.faults.edit import Edit, EditError, scope_of
from gradgate.faults.operators import Function, functions

_CHECK = re.compile(r"(?:^|/)(gg\d{3})_\w+\.py$")


def affected(faults: Sequence[Fault], root: Path, ref: str) -> list[Fault]:
    """Faults that a change since a git revision can bear on; the working tree counts.

    Args:
        faults: to choose from.
        root: a folder inside the repository; the faults' files are relative to it.
        ref: the revision.

    Returns:
        Faults in functions that differ, in entries that differ, and for checks that differ. Where a file differs
        outside its functions, all of it does; comments and layout count for nothing. Clean edits that name, as `codes`,
        what they are held against: one in a function that differs the checks that are named first for those faults,
        one elsewhere the checks that differ. With an entry that differs they name none, and are held against all.

    Raises:
        GradgateError: git knows no such revision, or the root is in no repository.
    """
    files = set(_git(root, "diff", "--name-only", "--relative", ref, "--").splitlines())
    checks = {match[1].upper() for file in files if (match := _CHECK.search(file))}
    entries = {Path(file).name for file in files if file.endswith(".yaml")}
    differing = {file: _differing(root, ref, file) for file in files & {e.file for f in faults for e in f.edits}}
    there = [fault for fault in faults if any(_is_in(edit, root, differing) for edit in fault.edits)]
    theirs = checks.union(*(fault.codes[:1] for fault in there))
    chosen = []
    for fault in faults:
        if fault.clean and fault.entry not in entries:
            codes = tuple(sorted(theirs if fault in there else checks))
            chosen += [replace(fault, codes=codes)] if codes else []
        elif fault in there or fault.entry in entries or checks & set(fault.codes):
            chosen.append(fault)
    return chosen


def _is_in(edit: Edit, root: Path, differing: Mapping[str, list[Function] | None]) -> bool:
    """Whether an edit is in what differs of its file; None: that is all of it."""
    if edit.file not in differing:
        return False
    parts = differing[edit.file]
    if parts is None:
        return True
    try:
        scope = scope_of(ast.parse((root / edit.file).read_text(encoding="utf-8")), edit.within, edit.file)
    except EditError:  # it is told, by name, where the fault is to be planted
        return True
    if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return bool(parts)
    first, last = scope.lineno, scope.end_lineno or scope.lineno
    return any(part.lineno <= last and first <= (part.end_lineno or part.lineno) for part in parts)


def _differing(root: Path, ref: str, file: str) -> list[Function] | None:
    """The functions of a file, as it is now, that are not as they were; None: it differs elsewhere too."""
    try:
        now = ast.parse((root / file).read_text(encoding="utf-8"))
        before = ast.parse(_git(root, "show", f"{ref}:./{file}"))
    except (OSError, SyntaxError, GradgateError):  # gone, no Python, or new
        return None
    old = {(path, ast.dump(node)) for path, node in functions(before)}
    parts = [node for path, node in functions(now) if (path, ast.dump(node)) not in old]
    return parts if _rest(before) == _rest(now) else None


def _rest(tree: ast.Module) -> str:
    """All but the functions of modules and classes."""
    inside = {id(node) for _, node in functions(tree)}
    for holder in ast.walk(tree):
        if isinstance(holder, ast.Module | ast.ClassDef):
            holder.body = [statement for statement in holder.body if id(statement) not in inside]
    return ast.dump(tree)


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise GradgateError(f"--changed: git cannot be run: {error.strerror or error}") from error
    if done.returncode:
        raise GradgateError(f"--changed: git says: {done.stderr.strip().splitlines()[0]}")
    return done.stdout
