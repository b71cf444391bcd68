"""Parameters that were registered while the block ran, and the lines that did it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradgate.watch.places import Place, here


@dataclass(slots=True)
class Made:
    """A parameter registered in the block, and the line that did it."""

    tensor: weakref.ref[Any]
    place: Place | None
    label: str
    placed: bool = False


class Registered:
    """Hears of every parameter and module that a module gets."""

    def __init__(self) -> None:
        self.made: dict[int, Made] = {}

    def parameter(self, module: nn.Module, name: str, parameter: Any) -> None:
        """A module gets a parameter."""
        if parameter is not None:
            self.made[id(parameter)] = Made(weakref.ref(parameter), here(3), f"{type(module).__name__}.{name}")

    def module(self, parent: nn.Module, name: str, child: Any) -> None:
        """A module gets a part: its parameters are known by the first line that puts them somewhere."""
        if child is None or not isinstance(child, nn.Module):
            return
        place = here(3)
        for parameter in child.parameters():
            made = self.made.get(id(parameter))
            if made is not None and not made.placed:
                made.place, made.label, made.placed = place, f"{type(parent).__name__}.{name}", True
