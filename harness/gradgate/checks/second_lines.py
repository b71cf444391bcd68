"""Which own line goes through a graph a second time: where the way to the second backward leaves that of the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from gradgate.checks.own_lines import Line, OwnLines, is_torch


class BackwardLines(OwnLines):
    """Backwards, and what leads to each.

    Attributes:
        ways: the node at which each begins, and the own lines, outermost first.
    """

    within = False

    def __init__(self, source: Path | None) -> None:
        super().__init__(source)
        self.ways: list[tuple[Any, list[Line]]] = []

    def entering(self, frame: FrameType) -> None:
        """Note a backward."""
        loss = frame.f_locals.get("self")
        if self.frames and is_torch(frame, "backward") and isinstance(loss, Tensor):
            self.ways.append((loss.grad_fn, self.way()))  # held, so that it is no other node's


def line_of_second(source: Path | None, work: Callable[[], Any]) -> Line | None:
    """The line that leads to the last backward and not to an earlier one of the same loss; None where none does.

    Args:
        source: of the subject.
        work: runs until one raises.
    """
    lines = BackwardLines(source)
    with lines.on():
        try:
            work()
        except (Exception, SystemExit):
            return _parting(lines.ways)
    return None


def _parting(ways: list[tuple[Any, list[Line]]]) -> Line | None:
    if not ways:
        return None
    last, way = ways[-1]
    for root, earlier in ways[:-1]:
        if root is last and root is not None:
            return next((line for line, other in zip(way, earlier, strict=False) if line != other), None)
    return None
