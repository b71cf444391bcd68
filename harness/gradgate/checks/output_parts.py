"""Equal parts of the outputs of joint projections, and which of them get a gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from gradgate.subjects.contract import Run

MOST = 8  # parts
FEWEST = 2  # outputs of a part


class Parts:
    """Which outputs of linear layers have had a gradient.

    Args:
        run: whose modules' linear layers are looked at.
    """

    def __init__(self, run: Run) -> None:
        modules = [part for module in run.modules.values() for part in module.modules()]
        self.weights = {part.weight for part in modules if isinstance(part, nn.Linear)}
        self.alive: dict[nn.Parameter, Tensor] = {}

    def note(self, gradients: Mapping[nn.Parameter, Tensor | None]) -> None:
        """Look at the gradients of an update."""
        for weight, gradient in gradients.items():
            if weight in self.weights and gradient is not None and not hasattr(gradient, "full_tensor"):
                known = self.alive.setdefault(weight, torch.zeros(len(gradient), dtype=torch.bool))
                known |= (gradient != 0).any(1).cpu()

    def parts(self, among: Iterable[nn.Parameter]) -> Iterator[tuple[nn.Parameter, tuple[int, int]]]:
        """Weights of which one of equal parts of the outputs never had any, and each other part had some: its number,
        from 0, and how many parts there are."""
        for weight in among:
            alive_O = self.alive.get(weight)
            if alive_O is not None and not alive_O.all():
                found = next((part for part in (_dead_part(alive_O, n) for n in range(2, MOST + 1)) if part), None)
                if found is not None:
                    yield weight, found


def _dead_part(alive_O: Tensor, count: int) -> tuple[int, int] | None:
    size = len(alive_O) // count
    if size * count != len(alive_O) or size < FEWEST:
        return None
    alive_P = alive_O.view(count, size).any(1)
    dead = (~alive_P).nonzero()[:, 0].tolist()
    return (dead[0], count) if len(dead) == 1 else None
