"""Which own line writes a checkpoint straight into its place, or swallows the error; and which one loads unchecked."""

from __future__ import annotations

import ast
import builtins
import io
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from gradgate.checks.own_lines import Line, OwnLines, is_torch, statement_at


class SaveLines(OwnLines):
    """Files that own lines open for writing, and what reads checkpoints.

    Attributes:
        opened: name of a file, and the line that opens it for writing, or removes it.
        loads: the lines that unpickle.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.opened: list[tuple[str, Line]] = []
        self.loads: list[Line] = []

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        line = self.now()
        if line is None:
            return
        if is_torch(frame, "load") and "serialization" in frame.f_code.co_filename:
            self.loads.append(line)
        elif is_torch(frame, "save") and isinstance(frame.f_locals.get("f"), str | Path):
            self.opened.append((Path(frame.f_locals["f"]).name, line))

    @contextmanager
    def files(self) -> Iterator[None]:
        """Trace the block, and note what is opened."""
        with files_noted(self._open, self._note), self.on():
            yield

    def _open(self, file: Any, mode: str) -> None:
        if set(mode) & set("wax+"):
            self._note(file)

    def _note(self, file: Any) -> None:
        line = self.now()
        if line is not None and isinstance(file, str | Path):
            self.opened.append((Path(file).name, line))


@contextmanager
def files_noted(opened: Callable[[Any, str], None], removed: Callable[[Any], None]) -> Iterator[None]:
    """Call `opened` with what the block opens, and in which mode, `removed` with what it removes, before it does."""
    original, unlink = builtins.open, os.unlink

    def opening(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened(file, mode)
        return original(file, mode, *args, **options)

    def removing(path: Any, *args: Any, **options: Any) -> None:
        removed(path)
        return unlink(path, *args, **options)

    with (
        patch.object(builtins, "open", opening),
        patch.object(io, "open", opening),
        patch.object(os, "unlink", removing),
    ):
        yield


def line_of_write(source: Any, save: Callable[[], Any], names: Collection[str]) -> Line | None:
    """The line that opens a file of the last checkpoint for writing, or removes it, before the new one is whole."""
    trace = SaveLines(source)
    with trace.files():
        save()
    return next((line for name, line in trace.opened if name in names), None)


def line_of_load(source: Any, load: Callable[[], Any]) -> Line | None:
    """The line that reads a file whose content nobody has checked before."""
    trace = SaveLines(source)
    with trace.files():
        load()
    return _before(trace.loads[-1]) if trace.loads else None


def _before(line: Line) -> Line:
    """The outermost `try` or `with` of its function around a line: what is checked first is checked before that."""
    for number in range(line[0].co_firstlineno + 1, line[1]):
        around = statement_at((line[0], number))
        if isinstance(around, ast.Try | ast.With) and around.lineno == number and (around.end_lineno or 0) >= line[1]:
            return line[0], number
    return line
