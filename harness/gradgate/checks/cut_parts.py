"""Parts of a weight that get no gradient, though the loss changes when they move.

Layers that belong together share a weight: queries, keys and values, the two halves of a gated MLP, the gates of an
LSTM. A `detach` behind one of them leaves the parameter alive and this part of it dead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradgate.checks.loss_gradient import LossGradient, random_direction

PARTS = (2, 3, 4)  # how many layers share a weight; the largest part that is dead is told
FEWEST = 4  # rows of a part: fewer may be units that happen to be off


@dataclass(frozen=True, slots=True)
class CutPart:
    """A part of a parameter that is cut off.

    Args:
        parameter: which.
        first: its first row.
        last: its last one.
        change: of the loss when the part moves by its own size, as a share of the loss.
    """

    parameter: nn.Parameter
    first: int
    last: int
    change: float


def cut_parts(
    gradient: LossGradient, parameters: Sequence[nn.Parameter], generator: torch.Generator, allowed: float
) -> Iterator[CutPart]:
    """Equal parts of the rows of matrices whose gradient is exactly 0 where that of others is not.

    A part whose units are off, or whose inputs never occur, changes nothing when it moves, and is none of these.

    Args:
        gradient: at the point to look from.
        parameters: to look at; those that are no matrices are left out.
        generator: of the directions.
        allowed: of the loss, that such a part may change it by.
    """
    for parameter in parameters:
        rows = dead_rows(gradient.gradients[parameter])
        if rows is None:
            continue
        first, last = rows
        direction = random_direction([parameter], generator)
        direction[parameter][:first] = 0.0
        direction[parameter][last + 1 :] = 0.0
        change = gradient.change(direction)
        if change > allowed:
            yield CutPart(parameter, first, last, change)


def dead_rows(gradient: Tensor) -> tuple[int, int] | None:
    """First and last row of the largest part without gradient, of a matrix that has some."""
    dead = (gradient == 0).flatten(1).all(1) if gradient.dim() == 2 else None
    if dead is None or not dead.any() or dead.all():
        return None
    for count in PARTS:
        size, rest = divmod(len(dead), count)
        of_parts = dead.view(count, -1).all(1).tolist() if not rest and size >= FEWEST else []
        if True in of_parts:
            at = of_parts.index(True)
            return at * size, (at + 1) * size - 1
    return None
