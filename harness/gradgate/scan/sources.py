"""Files to scan: finding them, reading them, and what to say of one that cannot be read."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import stat
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".py", ".pyi", ".ipynb")
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages.dist-info"})
PARTLY = "left out: "  # how a problem begins with which the rest of the file was scanned
MOST_BYTES = 4_000_000  # generated tables; parsing 10 MB of literals takes minutes and gigabytes


_IMPORT = re.compile(rb"\b(?:import|from)\b[^\n]*torch")


_MEASURING = frozenset({"time", "timeit", "capture", "prun", "memit", "mprun", "lprun", "heat"})  # they run the cell


class UnreadableError(Exception):
    """A file that cannot be scanned; the text says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file's program text.

    Args:
        text: Python; a notebook's code cells one after another.
        places: of a notebook, line of `text` -> (line of the file, cell, line of the cell); empty for a Python file.
        problem: of a notebook, cells that are left out, and why; it begins with `PARTLY`.
    """

    text: str
    places: dict[int, tuple[int, int, int]]
    problem: str = ""


def discover(paths: Iterable[Path], problems: dict[str, str]) -> Iterator[Path]:
    """Every file to scan under the paths, each once; what cannot be listed goes to `problems`.

    Hidden folders, virtual environments and caches are left out unless named. Links to folders are not followed.
    """
    seen: set[str] = set()

    def once(path: Path) -> bool:
        real = os.path.realpath(path)
        return real not in seen and not seen.add(real)  # type: ignore[func-returns-value]

    for path in paths:
        if path.is_dir():
            yield from (file for file in _walk(path, problems) if once(file))
        elif once(path):
            yield path


def _walk(top: Path, problems: dict[str, str]) -> Iterator[Path]:
    def denied(error: OSError) -> None:
        problems[str(error.filename)] = f"cannot be listed: {error.strerror}"

    for folder, folders, files in os.walk(top, onerror=denied):
        folders[:] = sorted(name for name in folders if _is_wanted(folder, name))
        for name in sorted(files):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield Path(folder, name)


def _is_wanted(folder: str, name: str) -> bool:
    if name.startswith(".") or name in SKIPPED:
        return False
    return not os.path.isfile(os.path.join(folder, name, "pyvenv.cfg"))  # noqa: PTH113, PTH118  one stat a folder


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        UnreadableError: it is gone, not a file, too large, or may not be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableError("is no regular file: a folder, a pipe or a device")  # opening a pipe would wait
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise UnreadableError(f"larger than {MOST_BYTES // 1_000_000} MB: generated, by its size; not scanned")
    return data


def is_relevant(path: Path, data: bytes) -> bool:
    """Whether a file can hold a finding at all: one that imports nothing named after torch needs no parsing."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True  # UTF-16, in which no word can be looked for: to be told
    return b"torch" in data if path.suffix == ".ipynb" else _IMPORT.search(data) is not None


def decode(path: Path, data: bytes) -> Source:
    """The program text of a file's content.

    Raises:
        UnreadableError: its encoding or its JSON is broken.
    """
    if path.suffix == ".ipynb":
        return notebook(data)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise UnreadableError(f"is not valid in its encoding: {error}") from error
    return Source(text.replace("\r\n", "\n").replace("\r", "\n"), {})


def notebook(data: bytes) -> Source:
    """The code cells of a notebook, one program; lines for the shell or for IPython become empty statements.

    Raises:
        UnreadableError: it is no notebook, or no cell of it is Python 3.
    """
    try:
        text = data.decode("utf-8")
        cells = json.loads(text)["cells"]
        code = [(at, "".join(cell["source"])) for at, cell in enumerate(cells, 1) if cell.get("cell_type") == "code"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"is no notebook: {type(error).__name__}: {error}") from error
    physical = text.split("\n")
    lines: list[str] = []
    places: dict[int, tuple[int, int, int]] = {}
    broken: list[str] = []
    at = 0
    for cell, source in code:
        kept, wrong = _python(source)
        broken += [f"cell {cell} {wrong}"] if wrong else []
        for number, line in enumerate(source.split("\n"), 1):
            at = _physical(physical, line, at)
            lines.append(kept[number - 1])
            places[len(lines)] = (at + 1, cell, number)
    if broken and len(broken) == len(code):
        raise UnreadableError(f"holds no Python 3: {broken[0]}")
    return Source("\n".join(lines) + "\n", places, PARTLY + "; ".join(broken) if broken else "")


def _python(source: str) -> tuple[list[str], str]:
    """The lines of a cell as Python, and why they are none: then all are empty."""
    lines: list[str] = []
    shell = False  # whether the line before goes on in this one
    for line in source.split("\n"):
        lines.append("" if shell else _quiet(line))
        shell = line.endswith("\\") and (shell or lines[-1] != line)
    magic = source.lstrip()[2:].partition("\n")[0].split(" ")[0] if source.lstrip().startswith("%%") else ""
    if magic and magic not in _MEASURING:
        return [""] * len(lines), ""
    try:
        parse_quietly("\n".join(lines))
    except SyntaxError as error:
        return [""] * len(lines), f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return [""] * len(lines), str(error) or "is nested too deeply"
    return lines, ""


def parse_quietly(text: str) -> ast.Module:
    """A syntax tree, without warnings of invalid escapes in somebody's strings.

    Raises:
        SyntaxError: it is no Python 3.
        ValueError: it holds null bytes.
        RecursionError, MemoryError: it is nested too deeply.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _physical(physical: list[str], line: str, start: int) -> int:
    """Where in the file a cell's line stands; the last known place where the file is not laid out by lines."""
    wanted = json.dumps(line, ensure_ascii=False)[1:-1]
    escaped = json.dumps(line)[1:-1]
    for at in range(start, min(start + 400, len(physical))):
        stripped = physical[at].strip().rstrip(",")
        if stripped.startswith('"') and stripped[1:].removesuffix('"').removesuffix("\\n") in (wanted, escaped):
            return at
    return start


def _quiet(line: str) -> str:
    stripped = line.lstrip()
    if stripped[:1] in ("%", "!", "?") or (stripped.rstrip().endswith("?") and "#" not in stripped):
        return line[: len(line) - len(stripped)] + "pass"
    return line
