"""Innocent edits: places of a change that change nothing, for a fault to hide among.

A pull request is rarely its fault alone. A returned value gets a name first, which any source has places for and which
computes the same.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gradgate.faults.edit import Edit, EditError, apply
from gradgate.faults.operators import functions, statements

_NAMES = ("answer", "outcome", "returned", "given_back")
_FROM_THE_FAULTS_FILE = 0.5  # share of the places, where it has so many


def beside(edits: Sequence[Edit], root: Path, count: int, seed: str) -> dict[str, str]:
    """Innocent edits around others, which are still to be made.

    Args:
        edits: of a fault; their functions are left alone.
        root: of the source.
        count: how many there are to be, at most.
        seed: the same one makes the same choice.

    Returns:
        The texts of the files that changed, by their path relative to the root.
    """
    choice = random.Random(seed)  # noqa: S311 - no secret
    own = list(dict.fromkeys(edit.file for edit in edits))
    others = sorted({str(file.relative_to(root)) for top in own for file in _neighbours(root, top)} - set(own))
    texts: dict[str, str] = {}
    near, far = (list(_places(root, files, edits)) for files in (own, others))
    for some in (near, far):
        choice.shuffle(some)
    first = near[: round(_FROM_THE_FAULTS_FILE * count)]
    left = count
    for edit in [*first, *far, *near[len(first) :]]:
        if not left:
            break
        try:
            texts[edit.file] = apply(texts.get(edit.file) or _read(root, edit.file), edit).text
        except EditError:  # the same statement stands there twice
            continue
        left -= 1
    return texts


def _neighbours(root: Path, file: str) -> Iterator[Path]:
    """The files of a file's package, or the file alone."""
    top = root / Path(file).parts[0]
    yield from top.rglob("*.py") if top.is_dir() else [top]


def _places(root: Path, files: Sequence[str], edits: Sequence[Edit]) -> Iterator[Edit]:
    taken: Mapping[str, list[str]] = {file: [edit.within for edit in edits if edit.file == file] for file in files}
    for file in files:
        for path, node in functions(ast.parse(_read(root, file))):
            within = ".".join(path)
            if any(
                not one or f"{within}.".startswith(f"{one}.") or f"{one}.".startswith(f"{within}.")
                for one in taken[file]
            ):
                continue
            used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            name = next((name for name in _NAMES if name not in used), None)
            for statement in statements(node):
                if name and isinstance(statement, ast.Return) and statement.value and not _is_plain(statement.value):
                    value = ast.unparse(statement.value)
                    yield Edit(file, ast.unparse(statement), f"{name} = {value}\nreturn {name}", within)


def _is_plain(value: ast.expr) -> bool:
    """Whether there is nothing to name: a name, a number, an attribute."""
    return isinstance(value, ast.Name | ast.Constant | ast.Attribute)


def _read(root: Path, file: str) -> str:
    return (root / file).read_text(encoding="utf-8")
