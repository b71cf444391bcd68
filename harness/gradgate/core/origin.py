"""Where an error comes from: the innermost line of the user's own code."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from functools import lru_cache
from pathlib import Path
from types import CodeType

from gradgate.core.finding import Location

_GRADGATE = Path(__file__).resolve().parents[1]
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib", "scripts"))
_ADAPTERS: set[str] = set()
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


def origin(error: BaseException, source: Path | None = None) -> Location | None:
    """The innermost line of the user's own code that an error went through.

    Args:
        error: as caught, with its traceback.
        source: the subject's own folder; its lines count even where the subject is installed.

    Returns:
        The place; the faulty line itself for a SyntaxError; None where no frame is the user's.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return Location(error.filename, error.lineno or 1, "", (error.text or "").strip())
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    for code, line in reversed(frames):
        if is_own_code(code.co_filename, source):
            return at_line(code, line)
    return None


def in_stack(text: str, source: Path | None = None) -> Location | None:
    """The innermost line of the user's own code in a stack that faulthandler wrote.

    Args:
        text: threads one after the other, each most recent call first; the one that died is marked, else the main
            thread is the last.
        source: as for `origin`.
    """
    threads = re.split(r"^(?=(?:Current thread|Thread) )", text, flags=re.MULTILINE)
    threads.sort(key=lambda thread: thread.startswith("Current thread"))
    for file, line, function in _FRAME.findall(threads[-1]):
        if is_own_code(file, source):
            name = "" if function == "<module>" else function
            return line_of_file(file, int(line), name)
    return None


def at_line(code: CodeType, line: int) -> Location:
    """A line of running code as a place; the top level of a module has no function's name."""
    return line_of_file(code.co_filename, line, "" if code.co_name == "<module>" else code.co_name)


def line_of_file(file: str, line: int, function: str = "") -> Location:
    """A line of a file as a place, with its text."""
    return Location(file, line, function, linecache.getline(file, line).strip())


@lru_cache(maxsize=4096)
def is_own_code(file: str, source: Path | None = None) -> bool:
    """Whether a file is the user's own: under `source`, or at least neither installed nor this library's."""
    if file.startswith("<"):
        return False
    path = Path(file).resolve()
    if source is not None and path.is_relative_to(source.resolve()):
        return "site-packages" not in path.relative_to(source.resolve()).parts
    return not any(path.is_relative_to(folder) for folder in (_GRADGATE, *_INSTALLED))


def leave_out(file: str) -> None:
    """Take a file for no trainer's code from here on: an adapter that lies in the trainer's folder."""
    _ADAPTERS.add(file)
    is_trainers_code.cache_clear()


@lru_cache(maxsize=4096)
def is_trainers_code(file: str, source: Path | None) -> bool:
    """Whether a file is the trainer's: the user's own, and not an adapter that lies beside it."""
    if file in _ADAPTERS:
        return False
    return is_own_code(file, source) and (source is None or Path(file).resolve().is_relative_to(source.resolve()))


def in_one_line(error: BaseException, source: Path | None = None) -> str:
    """`ValueError: what it says (file:line in function())`, with the first line of the error's own text."""
    said = str(error.msg if isinstance(error, SyntaxError) else error).strip()
    text = type(error).__name__ + (f": {said.splitlines()[0]}" if said else "")
    place = origin(error, source)
    return f"{text} ({place})" if place else text
