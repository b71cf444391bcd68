"""The fault catalogue: a folder of YAML files, one entry a fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradgate.checks import catalogue
from gradgate.core.errors import GradgateError, UnknownCodeError, nearest
from gradgate.faults.edit import Edit, EditError, apply

CLASSES: Mapping[str, str] = {
    "LW": "loss and weights",
    "MB": "masks and boundaries",
    "GF": "gradient flow",
    "OS": "optimizer, schedule, mode, stage",
    "PR": "precision",
    "DC": "data and configuration",
    "CR": "checkpoint and resume",
    "DI": "distributed",
    "PF": "performance",
    "ME": "memory",
    "OK": "clean edits, which must raise nothing",
}
_EDIT_KEYS = ("file", "within", "find", "replace")
_KEYS = ("id", "what", "source", "codes", "witness", "subject", *_EDIT_KEYS, "also")
_NEEDED = ("id", "what", "source", "file", "find")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to plant, or a clean edit.

    Args:
        id: class and number, `LW-01`; class OK: a clean edit.
        what: what is wrong, in a sentence.
        source: where such a fault was suffered.
        codes: of the rules that should notice it, most likely first; a clean edit has none.
        edits: the change.
        witness: what shows that the change has an effect: `step`, `resume` or Python that leaves a value in `seen`.
        entry: the file that it was read from.
        subject: `package.module:factory` of a small subject that has the mechanism, where the trainer lacks it; empty:
            the trainer.
    """

    id: str
    what: str
    source: str
    codes: tuple[str, ...]
    edits: tuple[Edit, ...]
    witness: str = "step"
    entry: str = ""
    subject: str = ""

    @property
    def clean(self) -> bool:
        """Whether this is an edit that must raise nothing."""
        return self.id.startswith("OK")


@dataclass(frozen=True, slots=True)
class Planted:
    """A fault applied to texts in memory.

    Args:
        files: the changed files' texts, by their path relative to the root.
        lines: file, first and last line of each change.
    """

    files: Mapping[str, str]
    lines: tuple[tuple[str, int, int], ...]


def read(folder: Path) -> list[Fault]:
    """Every fault of a folder, ordered by id.

    Args:
        folder: holds `*.yaml`, each a list of entries.

    Raises:
        GradgateError: the folder or a file cannot be read, or an entry is wrong: names file, entry and key.
    """
    if not folder.is_dir():
        raise GradgateError(f"{folder}: no such folder of faults")
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise GradgateError(f"{folder}: holds no *.yaml with faults")
    faults = [_fault(file, number, entry) for file in files for number, entry in enumerate(_entries(file), start=1)]
    seen: dict[str, str] = {}
    for fault in faults:
        if fault.id in seen:
            raise GradgateError(f"{fault.entry}: the id {fault.id} is taken by {seen[fault.id]}")
        seen[fault.id] = fault.entry
    return sorted(faults, key=lambda fault: fault.id)


def select(faults: Sequence[Fault], words: Sequence[str]) -> list[Fault]:
    """Faults by id (`LW-01`) or class (`LW`).

    Raises:
        GradgateError: a word fits none.
    """
    if not words:
        return list(faults)
    chosen: list[Fault] = []
    for word in words:
        found = [fault for fault in faults if word.upper() in (fault.id, fault.id.partition("-")[0])]
        if not found:
            raise GradgateError(f"no fault {word!r}{nearest(word.upper(), [fault.id for fault in faults])}")
        chosen += [fault for fault in found if fault not in chosen]
    return chosen


def plant(fault: Fault, root: Path) -> Planted:
    """Apply a fault to the source under a root, in memory.

    Raises:
        EditError: a file is missing, or an edit does not match exactly once; names the entry.
    """
    texts: dict[str, str] = {}
    lines: list[tuple[str, int, int]] = []
    for edit in fault.edits:
        try:
            before = texts.get(edit.file) or (root / edit.file).read_text(encoding="utf-8")
            edited = apply(before, edit)
        except OSError as error:
            raise EditError(f"{fault.entry} {fault.id}: {edit.file}: {error.strerror or error}") from error
        except EditError as error:
            raise EditError(f"{fault.entry} {fault.id}: {error}") from error
        texts[edit.file] = edited.text
        lines.append((edit.file, edited.first, edited.last))
    return Planted(texts, tuple(lines))


def _entries(file: Path) -> list[Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        entries = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise GradgateError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise GradgateError(f"{file}: expected a list of faults, got a {type(entries).__name__}")
    return entries


def _fault(file: Path, number: int, entry: Any) -> Fault:
    where = f"{file}, entry {number}"
    if not isinstance(entry, dict):
        raise GradgateError(f"{where}: expected a mapping, got a {type(entry).__name__}")
    where = f"{file}, {entry.get('id', f'entry {number}')}"
    _check_keys(entry, _KEYS, _NEEDED, where)
    family, _, rest = str(entry["id"]).partition("-")
    if family not in CLASSES or not rest.isdigit():
        raise GradgateError(f"{where}: id must be a class and a number such as LW-01; classes: {', '.join(CLASSES)}")
    also = entry.get("also", [])
    if not isinstance(also, list):
        raise GradgateError(f"{where}: also must be a list of edits, got a {type(also).__name__}")
    for extra in also:
        if not isinstance(extra, dict):
            raise GradgateError(f"{where}: also: expected a mapping, got a {type(extra).__name__}")
        _check_keys(extra, _EDIT_KEYS, ("file", "find"), f"{where}, also")
    return Fault(
        id=entry["id"],
        what=entry["what"],
        source=entry["source"],
        codes=_codes(entry.get("codes", []), where, clean=family == "OK"),
        edits=tuple(_edit(part) for part in (entry, *also)),
        witness=entry.get("witness", "step"),
        entry=file.name,
        subject=entry.get("subject", ""),
    )


def _check_keys(entry: Mapping[str, Any], known: Sequence[str], needed: Sequence[str], where: str) -> None:
    for key, value in entry.items():
        if key not in known:
            raise GradgateError(f"{where}: no key {key!r}, only {', '.join(known)}{nearest(str(key), known)}")
        if key not in ("codes", "also") and not isinstance(value, str):
            raise GradgateError(f"{where}: {key} must be text, got {value!r}")
    for key in needed:
        if not entry.get(key):
            raise GradgateError(f"{where}: lacks {key!r}")


def _codes(codes: Any, where: str, *, clean: bool) -> tuple[str, ...]:
    if not isinstance(codes, list) or bool(codes) == clean:
        expected = "no codes: nothing may notice a clean edit" if clean else "a list of at least one code"
        raise GradgateError(f"{where}: codes is {codes!r}; expected {expected}")
    try:
        return tuple(catalogue.rule(str(code)).code for code in codes)
    except UnknownCodeError as error:
        raise GradgateError(f"{where}: {error}") from error


def _edit(part: Mapping[str, Any]) -> Edit:
    return Edit(part["file"], part["find"], part.get("replace", ""), part.get("within", ""))
