"""Readers: a file of rows becomes a list of examples. Every fault is a DataError that names file and line.

Formats (`auto` takes the one that the first row's fields fit best):

* `mbpp`: text, code, test_list, task_id; test_setup_code if any. The text becomes a comment above the code.
* `humaneval`: task_id, prompt, canonical_solution, test, entry_point.
* `prompt_completion`: prompt, completion; task_id and test_list if any. With tests, the two are a Python program.
* `text`: objects with `text`; or a plain file, whose every line that is not blank is a row. A `.txt` file is plain; so
  is, where the format is given as `text`, any file not named .jsonl, .json or .ndjson.

All but plain files hold one JSON object a line. A name that ends in .gz is unpacked. CR LF and CR become LF.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.data.examples import Example
from wmtp.errors import DataError, nearest

JSON_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list"}


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a JSONL file, with its place for messages."""

    place: str
    fields: dict[str, Any]

    def string(self, name: str, *, default: str | None = None, filled: bool = False) -> str:
        """The string in field `name`, with LF line ends.

        Args:
            name: the field.
            default: what an absent field means; None where it must be there.
            filled: whether an empty string is an error.
        """
        value = self._value(name, "a string", default)
        if not isinstance(value, str):
            raise self._wrong(name, "a string", value)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"{self.place}: field {name!r} has a lone surrogate at character {error.start}") from error
        if filled and not value:
            raise DataError(f"{self.place}: field {name!r} is empty; expected a string with text in it")
        return _line_feeds(value)

    def strings(self, name: str, *, default: list[str] | None = None) -> tuple[str, ...]:
        """The list of strings in field `name`."""
        value = self._value(name, "a list of strings", default)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of strings", value)
        return tuple(map(_line_feeds, value))

    def task_id(self, *, default: str | None = None) -> str:
        """The task's name; a number is written out."""
        value = self._value("task_id", "a string or an integer", default)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self._wrong("task_id", "a string or an integer", value)
        return str(value)

    def _value(self, name: str, expected: str, default: object) -> object:
        if name in self.fields:
            return self.fields[name]
        if default is None:
            raise DataError(f"{self.place}: no field {name!r}, expected {expected}{nearest(name, self.fields)}")
        return default

    def _wrong(self, name: str, expected: str, value: object) -> DataError:
        return DataError(f"{self.place}: field {name!r} must be {expected}, got {_kind(value)}")


def _mbpp(row: Row) -> Example:
    header = "".join(f"# {line}\n" for line in row.string("text", filled=True).split("\n"))
    return Example(
        task_id=row.task_id(),
        prompt=header,
        completion=row.string("code", filled=True),
        setup=row.string("test_setup_code", default=""),
        tests=row.strings("test_list"),
    )


def _humaneval(row: Row) -> Example:
    entry_point = row.string("entry_point", filled=True)
    return Example(
        task_id=row.task_id(),
        prompt=row.string("prompt"),
        completion=row.string("canonical_solution", filled=True),
        tests=(f"{row.string('test', filled=True)}\ncheck({entry_point})",),
        entry_point=entry_point,
    )


def _prompt_completion(row: Row) -> Example:
    return Example(
        task_id=row.task_id(default=row.place),
        prompt=row.string("prompt"),
        completion=row.string("completion", filled=True),
        tests=row.strings("test_list", default=[]),
    )


def _text(row: Row) -> Example:
    return Example(task_id=row.task_id(default=row.place), prompt="", completion=row.string("text", filled=True))


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of row: the fields it must have, and what makes an example of them."""

    required: frozenset[str]
    build: Callable[[Row], Example]


FORMATS = {
    "mbpp": Format(frozenset({"text", "code", "test_list", "task_id"}), _mbpp),
    "humaneval": Format(
        frozenset({"task_id", "prompt", "canonical_solution", "test", "entry_point"}), _humaneval
    ),
    "prompt_completion": Format(frozenset({"prompt", "completion"}), _prompt_completion),
    "text": Format(frozenset({"text"}), _text),
}  # fmt: skip


def read_examples(path: Path, format: str = "auto") -> list[Example]:  # noqa: A002 -- the recipe's word
    """All examples of a file, in its order.

    Args:
        path: the file; unpacked where its name ends in .gz.
        format: auto, mbpp, humaneval, prompt_completion or text, see the module.

    Returns:
        At least one example.

    Raises:
        DataError: the file or one of its rows cannot be used; the message names file, line and field.
    """
    if format not in ("auto", *FORMATS):
        known = ", ".join(("auto", *FORMATS))
        raise DataError(f"unknown data format {format!r}{nearest(format, FORMATS)} (formats: {known})")
    lines = _lines(path)
    if not lines:
        raise DataError(f"{path}: the file is empty; expected at least one row")
    if _is_plain(path, format):
        return [Example(f"{path.name}:{number}", "", line) for number, line in lines]
    rows = [_row(path, number, line, last=number == lines[-1][0]) for number, line in lines]
    build = FORMATS[_detect(rows[0]) if format == "auto" else format].build
    return [build(row) for row in rows]


def _is_plain(path: Path, format: str) -> bool:  # noqa: A002 -- the recipe's word
    """Whether the lines of `path` are text, not JSON."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    return format in ("auto", "text") and (
        suffix == ".txt" or (format == "text" and suffix not in (".jsonl", ".json", ".ndjson"))
    )


def _detect(row: Row) -> str:
    """The format that shares most fields with `row`, the task's name aside; of equals, the one that misses fewest."""

    def fit(name: str) -> tuple[int, int]:
        required = FORMATS[name].required - {"task_id"}
        return len(required & row.fields.keys()), -len(required - row.fields.keys())

    best = max(FORMATS, key=fit)
    if fit(best)[0]:
        return best
    known = sorted(set().union(*(kind.required for kind in FORMATS.values())))
    clause = next((hint for field in row.fields if (hint := nearest(field, known))), "")
    raise DataError(
        f"{row.place}: fields {sorted(row.fields)} fit none of the formats {', '.join(FORMATS)}; "
        f"expected for example 'prompt' and 'completion', or 'text'{clause}"
    )


def _row(path: Path, number: int, line: str, *, last: bool) -> Row:
    place = f"{path}:{number}"
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        end = " (the last line: is the file truncated?)" if last else ""
        raise DataError(f"{place}: not JSON at column {error.colno}: {error.msg}{end}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits; brackets too deep
        raise DataError(f"{place}: JSON that cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: expected one JSON object a line, got {_kind(fields)}")
    return Row(place, fields)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of `path` that are not blank, with their numbers from 1."""
    data = _bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from error
    lines = enumerate(_line_feeds(text).split("\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file{_neighbour(path)}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder; expected a file of rows") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _neighbour(path: Path) -> str:
    """A clause that names the nearest file in the folder of `path`, or says that the folder is missing."""
    if not path.parent.is_dir():
        return f"; its folder {str(path.parent)!r} does not exist either"
    try:
        return nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        return ""


def _line_feeds(text: str) -> str:
    """`text` with LF at its line ends, whichever system wrote it."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _kind(value: object) -> str:
    """What JSON calls `value`, for messages."""
    if value is None or isinstance(value, dict):
        return "null" if value is None else "an object"
    if isinstance(value, list) and any(not isinstance(item, str) for item in value):
        return "a list whose items are not all strings"
    return JSON_NAMES[type(value)]
