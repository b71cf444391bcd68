"""Lines: which line of a checkout's own code accounts for something, such that lines of two revisions can meet."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FrameType


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the user's code. Lines of two revisions are equal when all but their number is.

    Args:
        file: relative to the checkout; empty where no line of it was on the stack.
        function: the enclosing function.
        source: the line's text, stripped.
        module: classes of the modules in whose forward it ran, outermost first.
        number: 1-based.
    """

    file: str = ""
    function: str = ""
    source: str = ""
    module: str = ""
    number: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """`step.py:41 in forward()`."""
        if not self.file:
            return "outside the checkout's own code"
        return f"{self.file}:{self.number}" + (f" in {self.function}()" if self.function else "")


NOWHERE = Line()


class Lines:
    """Finds the innermost line of a checkout's own code on a stack; cheap, since it is asked for every operation.

    Args:
        relative: a file's path within the checkout; None for a file outside it.
    """

    def __init__(self, relative: Callable[[str], str | None]) -> None:
        self._relative = relative
        self._files: dict[CodeType, str | None] = {}
        self._lines: dict[tuple[CodeType, int, str], Line] = {}

    def of(self, frame: FrameType | None, module: str = "") -> Line:
        """The innermost own line from a frame outwards, in a module's forward."""
        while frame is not None:
            file = self._file(frame.f_code)
            if file is not None:
                return self._line(frame.f_code, frame.f_lineno, file, module)
            frame = frame.f_back
        return NOWHERE

    def _file(self, code: CodeType) -> str | None:
        if code not in self._files:
            self._files[code] = self._relative(code.co_filename)
        return self._files[code]

    def _line(self, code: CodeType, number: int, file: str, module: str) -> Line:
        key = (code, number, module)
        if key not in self._lines:
            function = "" if code.co_name == "<module>" else code.co_name
            source = linecache.getline(code.co_filename, number).strip()
            self._lines[key] = Line(file, function, source, module, number)
        return self._lines[key]
