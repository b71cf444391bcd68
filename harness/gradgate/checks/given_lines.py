"""Which own line gives on what it should have detached: by trial.

Each tensor on a graph that one own function gives another is detached in turn, the outermost first. The first without
which a term does not reach a module, and all others reach what they should, is the place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from torch import Tensor

from gradgate.checks.own_lines import Line, OwnLines, argument_at, arguments_of, put

TRIALS = 32
Given = tuple[Line, CodeType, str]  # the line that calls, the function that is called, its argument


class GivenLines(OwnLines):
    """Tensors on a graph that own functions are given.

    Args:
        source: of the subject.
        detached: the one that is given without its graph.

    Attributes:
        given: in order.
    """

    within = False

    def __init__(self, source: Path | None, detached: Given | None = None) -> None:
        super().__init__(source)
        self.detached = detached
        self.given: dict[Given, None] = {}

    def entering(self, frame: FrameType) -> None:
        """Look at what an own function is given."""
        caller = self.now()
        if caller is None or not self.is_own(frame.f_code):
            return
        for name in arguments_of(frame.f_code):
            value = frame.f_locals.get(name)
            if isinstance(value, Tensor) and value.requires_grad:
                given = (caller, frame.f_code, name)
                self.given.setdefault(given)
                if given == self.detached:
                    put(frame, name, value.detach())


def line_of_given(source: Path | None, work: Callable[[], Any], is_right: Callable[[Any], bool]) -> Line | None:
    """The line that gives a tensor with its graph; None where detaching none makes it right.

    Args:
        source: of the subject.
        work: computes, the same each time.
        is_right: whether what it gives is right.
    """
    lines = GivenLines(source)
    with lines.on():
        work()
    for given in list(lines.given)[:TRIALS]:
        with GivenLines(source, given).on():
            found = work()
        if is_right(found):
            return argument_at(*given) or given[0]
    return None
