"""Parameters that a program releases while it trains, and whether any optimizer has them."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Unstepped:
    """A parameter that was frozen as an optimizer made its first step, and gets a gradient that nobody steps.

    Args:
        update: the first one at which that was seen, from 0.
        module: the class of the largest module that has it.
        name: its own there.
        norm: of that gradient.
    """

    update: int
    module: str
    name: str
    norm: float


class Released:
    """What was frozen as each optimizer began, looked at again at the updates 1, 2, 4, 8 and so on of each."""

    def __init__(self) -> None:
        self._before = {id(each): each for each in _all(nn.Parameter)}  # of whoever launches: none of the program's
        self._frozen: dict[int, nn.Parameter] = {}
        self._steps: dict[int, int] = {}
        self.found: list[Unstepped] = []

    def look(self, optimizer: torch.optim.Optimizer, update: int) -> None:
        """In front of a step: what is frozen at the first one, and what has been released since at later ones."""
        made = self._steps[id(optimizer)] = self._steps.get(id(optimizer), 0) + 1
        if made & (made - 1):
            return
        if made == 1:
            self._frozen |= {id(p): p for p in _all(nn.Parameter) if not p.requires_grad and id(p) not in self._before}
        released = [p for p in self._frozen.values() if p.requires_grad and p.grad is not None and bool(p.grad.any())]
        if not released:
            return
        stepped = {
            id(parameter)
            for each in _all(torch.optim.Optimizer)
            for group in each.param_groups
            for parameter in group["params"]
        }
        for parameter in released:
            del self._frozen[id(parameter)]
            self._before[id(parameter)] = parameter
            if id(parameter) not in stepped and parameter.grad is not None:
                module, name = _place_of(parameter)
                self.found.append(Unstepped(update, module, name, float(parameter.grad.double().norm())))


def _all(kind: type[_Kind]) -> list[_Kind]:
    """All objects of a class that there are; their own `__class__` is not asked, which a dead proxy does not have."""
    return [each for each in gc.get_objects() if issubclass(type(each), kind)]


def _place_of(parameter: nn.Parameter) -> tuple[str, str]:
    """The class of the largest module that has a parameter, and its name there."""
    best, size = ("", "a parameter"), -1
    for module in _all(nn.Module):
        named = dict(module.named_parameters())
        name = next((name for name, each in named.items() if each is parameter), "")
        if name and len(named) > size:
            best, size = (type(module).__name__, name), len(named)
    return best
