"""Which own line gives an optimizer the wrong module, or leaves one out.

While a run starts, each attribute of an own line that is a module is noted. Where an optimizer holds parameters that
never get a gradient, the last line that named their module before it was built is the place. Where it holds none of
those, it is the last that named another module of the same owner: what is left out belongs beside it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradgate.checks.own_lines import Line, OwnLines, heads_of, is_torch
from gradgate.checks.updates import parameters_of


@dataclass(frozen=True)
class Pick:
    """An attribute that is a module.

    Args:
        module: it.
        owner: whose attribute.
        line: that names it.
    """

    module: nn.Module
    owner: Any
    line: Line


class PickLines(OwnLines):
    """Attributes that are modules, and optimizers that are built.

    Attributes:
        picks: in order.
        before: of each optimizer, how many there were.
    """

    within = False

    def __init__(self, source: Path | None) -> None:
        super().__init__(source)
        self.picks: list[Pick] = []
        self.before: dict[int, int] = {}

    def behind(self, line: Line) -> None:
        """Look at what the line names."""
        self.picks += _picks(line, self.frames[-1])

    def entering(self, frame: FrameType) -> None:
        """Note an optimizer that is built, and what the lines that lead there name."""
        if self.frames and is_torch(frame, "__init__") and isinstance(frame.f_locals.get("self"), Optimizer):
            for own, line in zip(self.frames, self.way(), strict=True):
                self.picks += _picks(line, own)
            self.before[id(frame.f_locals["self"])] = len(self.picks)


def line_of_group(
    source: Path | None,
    start: Callable[[], Any],
    alive: Callable[[Any], Collection[nn.Parameter]],
    unheld: Callable[[Any], Collection[nn.Parameter]],
) -> Line | None:
    """The line that gives an optimizer another module than the one that trains; None where none is sure.

    Args:
        source: of the subject.
        start: starts a run.
        alive: steps it, and gives the parameters that got a gradient.
        unheld: those of it that no optimizer holds.
    """
    lines = PickLines(source)
    with lines.on():
        run = start()
    moving = set(alive(run))
    missing = moving.intersection(unheld(run))
    if not missing:
        return None
    for optimizer in run.optimizers:
        picks = lines.picks[: lines.before.get(id(optimizer), 0)]
        held = parameters_of(optimizer)
        instead = [pick for pick in picks if len(own := set(pick.module.parameters())) > 0 and own <= held - moving]
        if instead:
            return instead[-1].line
        beside = [pick for pick in picks if set(pick.module.parameters()) & held and _has(pick.owner, missing)]
        if beside:
            return beside[-1].line
    return None


def _has(owner: Any, parameters: set[nn.Parameter]) -> bool:
    return isinstance(owner, nn.Module) and parameters <= set(owner.parameters())


def _picks(line: Line, frame: FrameType) -> Iterator[Pick]:
    for node in _attributes(line):
        owner = _value_of(node.value, frame)
        module = _attribute(owner, node.attr)
        if isinstance(module, nn.Module):
            yield Pick(module, owner, (line[0], node.lineno))


@lru_cache(maxsize=4096)
def _attributes(line: Line) -> tuple[ast.Attribute, ...]:
    nodes = (node for head in heads_of(line) for node in ast.walk(head))
    return tuple(node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))


def _value_of(node: ast.AST, frame: FrameType) -> Any:
    """What a chain of names and attributes stands for, without calling anything."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id)
    return _attribute(_value_of(node.value, frame), node.attr) if isinstance(node, ast.Attribute) else None


def _attribute(owner: Any, name: str) -> Any:
    held = getattr(owner, "__dict__", {})
    return held.get("_modules", {}).get(name) if isinstance(owner, nn.Module) and name not in held else held.get(name)
