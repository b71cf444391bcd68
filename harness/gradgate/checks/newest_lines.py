"""Which own line keeps the newest checkpoint of several from being the one that is loaded.

A run saves behind each step into one folder, as runs do, and another loads from there. Where the newest is gone, the
line that removed it chose wrongly. Where it is there and an older one is read, its name is looked at: in the order of
words an older one comes behind it although its numbers are smaller, then the line that makes the name is the place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from gradgate.checks.checkpoints import files_of
from gradgate.checks.own_lines import Line, OwnLines, arguments_of
from gradgate.checks.save_lines import files_noted
from gradgate.subjects.contract import Run


class FileLines(OwnLines):
    """Names of files that own lines make, files that they remove, and files that are read.

    Attributes:
        removed: of each file the line that chose it.
        named: of each name the line that gives it first.
        read: in order.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.removed: dict[Path, Line] = {}
        self.named: dict[str, Line] = {}
        self.read: list[Path] = []
        self._last: dict[FrameType, Line] = {}

    def behind(self, line: Line) -> None:
        """Note what a function does last."""
        self._last[self.frames[-1]] = line

    def leaving(self, frame: FrameType, value: Any) -> None:
        """Note a name that an own function gives."""
        line = self._last.pop(frame, None)
        if line is not None and isinstance(value, str):
            self.named.setdefault(value, line)

    @contextmanager
    def files(self) -> Iterator[None]:
        """Trace the block, and note what is removed and read."""
        with files_noted(self._open, self._remove), self.on():
            yield

    def _open(self, file: Any, _mode: str) -> None:
        if isinstance(file, str | Path):
            self.read.append(Path(file).resolve())

    def _remove(self, path: Any) -> None:
        line = self._chosen(path)
        if line is not None:
            self.removed[Path(path).resolve()] = line

    def _chosen(self, path: Any) -> Line | None:
        """The innermost line whose function was not given the path."""
        for frame, line in zip(reversed(self.frames), reversed(self.way()), strict=True):
            if not any(_is_same(frame.f_locals.get(name), path) for name in arguments_of(frame.f_code)):
                return line
        return None


def line_of_choice(
    source: Any, start: Callable[[], Run], other: Callable[[], Run], folder: Path, saves: int
) -> Line | None:
    """The line that keeps the newest of several checkpoints from being loaded; None where it is loaded.

    Args:
        source: of the subject.
        start: starts the run that saves.
        other: starts the one that loads.
        folder: empty.
        saves: steps, each with a save behind it.
    """
    lines, run = FileLines(source), start()
    batches = iter(run.batches())
    written: list[set[Path]] = []
    for batch in islice(batches, saves):
        run.step(batch)
        before = _states(folder)
        with lines.files():
            run.save(folder)
        written.append({path for path, state in _states(folder).items() if before.get(path) != state})
    lines.read.clear()
    loaded = other()
    with lines.files():
        loaded.load(folder)
    newest = written[-1]
    older = set().union(*written[:-1]) - newest
    taken = [path for path in lines.read if path in older]
    if newest.intersection(lines.read) or not taken:
        return None
    beside = [path for path in newest if _is_beside(path, taken[0])]
    if not beside:
        return next(
            (line for path, line in lines.removed.items() if path not in older and _is_beside(path, taken[0])), None
        )
    return next((_of_name(lines, path) for path in beside if _is_behind_by_numbers_alone(path, taken[0])), None)


def _of_name(lines: FileLines, path: Path) -> Line | None:
    return lines.named.get(path.name) or lines.named.get(path.stem)


def _is_beside(path: Path, other: Path) -> bool:
    return (path.parent, path.suffix) == (other.parent, other.suffix)


def _is_behind_by_numbers_alone(path: Path, other: Path) -> bool:
    """Whether a name comes before another in the order of words, and behind it in that of the numbers in both."""
    return path.name < other.name and _numbers(path.name) > _numbers(other.name)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _states(folder: Path) -> dict[Path, tuple[int, int]]:
    found = {}
    for file in files_of(folder):
        path = (folder / file).resolve()
        told = path.stat()
        found[path] = (told.st_mtime_ns, told.st_ino)
    return found


def _is_same(value: Any, path: Any) -> bool:
    return isinstance(value, str | Path) and isinstance(path, str | Path) and Path(value) == Path(path)
