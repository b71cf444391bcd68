"""Which own line draws an epoch's order, for orders that repeat or leave out samples."""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType, FrameType
from typing import Any

from gradgate.checks.own_lines import Line, OwnLines
from gradgate.subjects.contract import Run


class OrderLines(OwnLines):
    """What the functions that draw batches give, by line.

    Attributes:
        indices: the lines at which own functions return lists of whole numbers, innermost first; by call from outside.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.indices: list[list[tuple[Line, list[int]]]] = []
        self._last: dict[int, Line] = {}

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        if not self.frames and self.is_own(frame.f_code):
            self.indices.append([])

    def behind(self, line: Line) -> None:
        """Look at what the line has done."""
        self._last[id(self.frames[-1])] = line

    def leaving(self, frame: FrameType, value: Any) -> None:
        """Note what an own function gives."""
        line = self._last.pop(id(frame), None)
        if line is not None and isinstance(value, list) and value and all(type(x) is int for x in value):
            self.indices[-1].append((line, value))


def line_of_order(source: Any, run: Run, epochs: int, *, repeats: bool) -> Line | None:
    """The line that gives the indices of samples: the first function whose list repeats one; of whole
    epochs that are alike the innermost one that still runs in the last of them.

    Args:
        source: of the subject.
        run: at its start.
        epochs: how many to draw.
        repeats: whether samples are repeated or missing within an epoch; False: whole epochs are alike.
    """
    trace = OrderLines(source)
    batches, names, size = iter(run.batches()), 0, run.epoch_size
    while names < epochs * size:
        with trace.on():
            batch = next(batches)
        names += len(run.samples(batch))
    if repeats:
        return _repeating([one for call in trace.indices for one in call], size)
    last = [call for call in trace.indices[-(len(trace.indices) // epochs) :] if call]
    return max(last, key=len)[0][0] if last else None


def _repeating(given: Sequence[tuple[Line, list[int]]], size: int) -> Line | None:
    """The innermost line whose lists, one after the other, repeat an index within an epoch; where none does, the
    samples themselves are repeated."""
    by_code: dict[CodeType, tuple[Line, list[int]]] = {}
    for line, indices in given:
        by_code.setdefault(line[0], (line, []))[1].extend(indices)
    for line, indices in by_code.values():
        epochs = [indices[i : i + size] for i in range(0, len(indices), size)]
        if any(len(set(epoch)) < len(epoch) for epoch in epochs):
            return line
    return None
