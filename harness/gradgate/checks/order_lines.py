"""Which own line draws an epoch's order, for orders that repeat or leave out samples."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from gradgate.checks.own_lines import Line, OwnLines


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


def line_of_order(source: Any, draw: Callable[[], Any], size: int, *, repeats: bool) -> Line | None:
    """The line that gives the indices of samples: the first function whose list repeats one; of whole
    epochs that are alike the innermost one that still runs in the last of them.

    Args:
        source: of the subject.
        draw: takes some epochs of batches.
        size: samples of an epoch.
        repeats: whether samples are repeated or missing within an epoch; False: whole epochs are alike.
    """
    trace = OrderLines(source)
    with trace.on():
        draw()
    if repeats:
        every = [one for call in trace.indices for one in call]
        inside = next((line for line, given in every if len(set(given)) < len(given)), None)
        drawn = [index for call in trace.indices if call for index in call[-1][1]]
        epochs = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        if inside is not None or all(len(set(epoch)) == len(epoch) for epoch in epochs):
            return inside  # where no index is repeated the samples themselves are
    return next((call[0][0] for call in reversed(trace.indices) if call), None)
