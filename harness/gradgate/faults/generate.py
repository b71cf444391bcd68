"""Further faults from any trainer's source: one statement of one function changed by a generic operator."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from random import Random

from gradgate.core.errors import GradgateError
from gradgate.faults.catalogue import Fault
from gradgate.faults.edit import Edit, EditError, apply
from gradgate.faults.operators import Variant, functions, variants

FAMILY = "GN"
# Operators that are repairs alone: they make nonsense, or the same again, of a sound source.
_REPAIRS = {
    "drop-call",
    "drop-method",
    "keep-part",
    "drop-index",
    "swap-arguments",
    "use-unused",
    "guard-divisor",
    "mask-value",
    "add-double",
    "drop-clone",
    "drop-contiguous",
}
_AROUND = 24  # characters around a change that are shown with it
_LONGEST = 3  # lines of a statement that is changed: of a longer one, such as a whole loop, no line would be named


def mutants(sources: Sequence[Path], root: Path, count: int, seed: int) -> list[Fault]:
    """A sample of the changes that the operators make, spread over operators.

    Args:
        sources: files, or folders with `*.py`, under the root.
        root: the folder on the import path.
        count: how many at most.
        seed: of the sample.

    Returns:
        Faults without codes, whose edits match exactly once, numbered from 1.

    Raises:
        GradgateError: a source is not there, lies outside the root, is no Python or cannot be read, or has nothing that
            an operator changes.
    """
    by_operator: dict[str, list[tuple[Edit, Variant]]] = {}
    for file in _files(sources, root):
        for edit, variant in _of_file(file, root):
            by_operator.setdefault(variant.operator, []).append((edit, variant))
    random = Random(seed)  # noqa: S311 - a sample
    operators = sorted(by_operator)
    random.shuffle(operators)
    for name in operators:
        random.shuffle(by_operator[name])
    # One of each operator in turn, so that the few rare ones are not lost among off-by-one and other names.
    turns = chain.from_iterable(zip_longest(*(by_operator[name] for name in operators)))
    chosen = [one for one in turns if one is not None][:count]
    if not chosen:
        raise GradgateError(f"{', '.join(map(str, sources))}: has no function with anything that an operator changes")
    return [_fault(number, edit, variant) for number, (edit, variant) in enumerate(chosen, start=1)]


def dumps(faults: Sequence[Fault]) -> str:
    """Faults as the text of a catalogue's file."""
    from io import StringIO

    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import LiteralScalarString

    def text(value: str) -> str:
        return LiteralScalarString(value + "\n") if "\n" in value else value

    entries = [
        {
            "id": fault.id,
            "what": fault.what,
            "source": fault.source,
            "file": edit.file,
            "within": edit.within,
            "find": text(edit.find),
            "replace": text(edit.replace),
        }
        for fault in faults
        for edit in fault.edits
    ]
    yaml = YAML()
    yaml.width = 1_000_000
    stream = StringIO("# Written by `gradgate faults generate`.\n")
    stream.seek(0, 2)
    yaml.dump(entries, stream)
    return stream.getvalue()


def _files(sources: Sequence[Path], root: Path) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        place = source if source.is_absolute() else root / source
        if not place.exists():
            raise GradgateError(f"{source}: no such file or folder under {root}")
        if not place.resolve().is_relative_to(root):
            raise GradgateError(f"{source}: lies outside {root}; --path names the folder on the import path")
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        if not files:
            raise GradgateError(f"{source}: holds no *.py")
        found += [file.resolve() for file in files if file.resolve() not in found]
    return found


def _of_file(file: Path, root: Path) -> Iterator[tuple[Edit, Variant]]:
    """Changes whose statement is one of its kind in its function."""
    name = file.relative_to(root).as_posix()
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise GradgateError(f"{name}: cannot be read as Python: {error}") from error
    for path, node in functions(tree):
        for variant in variants(node):
            edit = Edit(name, variant.before, variant.after, ".".join(path))
            long = variant.before.count("\n") >= _LONGEST
            if not long and variant.operator not in _REPAIRS and _trains(variant) and _fits(text, edit):
                yield edit, variant


def _trains(variant: Variant) -> bool:
    """Whether it is not about what is told to people: errors, warnings, logs."""
    return not variant.before.startswith(("raise ", "assert ", "print(", "warnings.", "logger.", "logging."))


def _fits(text: str, edit: Edit) -> bool:
    try:
        apply(text, edit)
    except EditError:
        return False
    return True


def _fault(number: int, edit: Edit, variant: Variant) -> Fault:
    what = f"{variant.operator} in {edit.within}: {_difference(variant.before, variant.after or 'pass')}"
    return Fault(f"{FAMILY}-{number:03d}", what, f"operator {variant.operator}", (), (edit,), entry="generated")


def _difference(before: str, after: str) -> str:
    """The places in which two statements differ, each with some of what stands around it."""
    start = _shared(before, after)
    end = _shared(before[start:][::-1], after[start:][::-1])
    first = max(0, start - _AROUND)
    cut = [" ".join(text[first : max(start, len(text) - end) + _AROUND].split()) for text in (before, after)]
    return f"`{cut[0]}` became `{cut[1]}`"


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
