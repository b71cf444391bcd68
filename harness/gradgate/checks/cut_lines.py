"""Which own line keeps a gradient from parameters: the one without which all of them get it.

A step may detach on purpose, so that a line which cuts is not yet the wrong one. Each `detach` and `no_grad` of the
trainer's is left out in turn, in a fresh run. Of those that bring every dead parameter back the last is named: what is
detached before it is a target or a weight, and meant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.own_lines import Line
from gradgate.core.origin import is_trainers_code

_INTO_PYTHON = ("tolist", "item", "numpy", "__float__")
_DECORATOR = "_contextlib.py"  # of torch: runs a function inside of a context


@dataclass
class Cuts:
    """Lines of a step that cut a graph, in the order of their first time.

    Args:
        lines: that detach, or switch gradients off.
        numbers: lines that made numbers of what has a graph; leaving them out is not possible.
    """

    lines: list[Line] = field(default_factory=list)
    numbers: dict[Line, int] = field(default_factory=dict)


@contextmanager
def without(source: Path | None, left_out: Line | None = None) -> Iterator[Cuts]:
    """Note each cut of the block, and leave one out.

    Args:
        source: of the subject.
        left_out: the line whose `detach` gives its tensor back, and whose `no_grad` does nothing.
    """
    cuts = Cuts()
    kept = {name: getattr(Tensor, name) for name in ("detach", "backward", *_INTO_PYTHON)}
    enter = torch.no_grad.__enter__
    over = False

    def cut(frame: FrameType) -> bool:
        line = _own(frame, source)
        if line is not None and line not in cuts.lines and not over:
            cuts.lines.append(line)
        return line is not None and line == left_out

    def detach(tensor: Tensor) -> Tensor:
        result: Tensor = kept["detach"](tensor)
        return tensor if tensor.requires_grad and cut(sys._getframe(1)) else result

    def entered(context: Any) -> None:
        enter(context)
        if context.prev and cut(sys._getframe(1)):
            torch._C._set_grad_enabled(True)

    def backward(tensor: Tensor, *args: Any, **named: Any) -> Any:
        nonlocal over
        over = True
        return kept["backward"](tensor, *args, **named)

    def number(name: str) -> Callable[..., Any]:
        def call(tensor: Tensor, *args: Any, **named: Any) -> Any:
            line = _own(sys._getframe(1), source) if tensor.requires_grad and not over else None
            if line is not None:
                cuts.numbers.setdefault(line, len(cuts.lines))
            return kept[name](tensor, *args, **named)

        return call

    instead = {"detach": detach, "backward": backward, **{name: number(name) for name in _INTO_PYTHON}}
    for name, function in instead.items():
        setattr(Tensor, name, function)
    torch.no_grad.__enter__ = entered  # type: ignore[method-assign]
    try:
        yield cuts
    finally:
        for name, function in kept.items():
            setattr(Tensor, name, function)
        torch.no_grad.__enter__ = enter  # type: ignore[method-assign]


def _own(frame: FrameType, source: Path | None) -> Line | None:
    """A caller's line where it is own; of a function that a decorator runs without gradients the decorator's. What
    torch does inside of itself is no cut of the trainer's."""
    code = frame.f_code
    if is_trainers_code(code.co_filename, source):
        return code, frame.f_lineno
    if Path(code.co_filename).name == _DECORATOR and "func" in frame.f_locals:
        inner = getattr(frame.f_locals["func"], "__code__", None)
        if inner is not None and is_trainers_code(inner.co_filename, source):
            return inner, inner.co_firstlineno
    return None


def line_of_cut(source: Path | None, revives: Callable[[], bool]) -> tuple[Line | None, Sequence[Line]]:
    """The line without which all parameters get a gradient, and all lines that cut.

    Args:
        source: of the subject.
        revives: starts anew, steps, and says whether every dead parameter has one.
    """
    with without(source) as cuts:
        if revives():
            return None, ()
    found: Line | None = None
    for line in cuts.lines:
        with without(source, line), suppress(Exception):  # what it is left out for may need it
            found = line if revives() else found
    if found is not None and any(count > cuts.lines.index(found) for count in cuts.numbers.values()):
        return None, cuts.lines  # what left for Python behind it may be the cut
    return found, cuts.lines
