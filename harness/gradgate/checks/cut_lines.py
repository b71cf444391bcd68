"""Which own line keeps a gradient from parameters: the one without which all of them get it.

A step may detach on purpose, so that a line which cuts is not yet the wrong one. Each `detach` and `no_grad` of the
trainer's is left out in turn, in a fresh run. Of those that bring every dead parameter back the last is named: what is
detached before it is a target or a weight, and meant. What leaves for Python cannot be left out: its numbers are made
other ones, and where the loss then is another, they come back into it without their graph.
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

from gradgate.checks.crossings import ordered
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
        leaves: of each of these the leaves that its graph comes from.
        losses: that backwards began at.
    """

    lines: list[Line] = field(default_factory=list)
    numbers: dict[Line, int] = field(default_factory=dict)
    leaves: dict[Line, set[Tensor]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


@contextmanager
def without(source: Path | None, left_out: Line | None = None, moved: Line | None = None) -> Iterator[Cuts]:
    """Note each cut of the block, and leave one out.

    Args:
        source: of the subject.
        left_out: the line whose `detach` gives its tensor back, and whose `no_grad` does nothing.
        moved: the line that makes other numbers of what has a graph.
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
        cuts.losses += [float(kept["detach"](tensor))] if tensor.numel() == 1 else []
        return kept["backward"](tensor, *args, **named)

    def number(name: str) -> Callable[..., Any]:
        def call(tensor: Tensor, *args: Any, **named: Any) -> Any:
            line = _own(sys._getframe(1), source) if tensor.requires_grad and not over else None
            if line is not None:
                cuts.numbers.setdefault(line, len(cuts.lines))
                cuts.leaves.setdefault(line, set()).update(_leaves(tensor))
            result = kept[name](tensor, *args, **named)
            return result if line is None or line != moved else _other(result)

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


def line_of_numbers(source: Path | None, step: Callable[[], Sequence[Tensor]]) -> Line | None:
    """The line that makes numbers of what has a graph, of which the loss is made again; None where none does alone.

    Args:
        source: of the subject.
        step: starts anew, steps, and gives the dead parameters.
    """
    with without(source) as cuts:
        dead = set(step())
    with without(source) as again:
        step()
    found = []
    for line, leaves in cuts.leaves.items() if cuts.losses == again.losses else ():
        if dead <= leaves:
            with without(source, moved=line) as moved, suppress(Exception):  # a guard may refuse other numbers
                step()
            found += [line] if moved.losses[:1] not in ([], cuts.losses[:1]) else []
    return found[0] if len(found) == 1 else None


def _leaves(tensor: Tensor) -> set[Tensor]:
    """What a graph comes from."""
    return (
        {tensor} if tensor.grad_fn is None else {n.variable for n in ordered(tensor.grad_fn) if hasattr(n, "variable")}
    )


def _other(number: Any) -> Any:
    """Other numbers than these."""
    return [_other(each) for each in number] if isinstance(number, list) else 1.01 * number + 0.01
