"""What an optimizer's step really does to parameters: gradients and numbers before it, numbers after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradgate.checks.updates import gradient_of, parameters_of


@dataclass(frozen=True, slots=True)
class Move:
    """One parameter in one optimizer step.

    Args:
        optimizer: which stepped.
        gradient: as the step began, dense; None where there was none.
        before: the parameter as the step began.
        after: as it ended.
        lr: learning rate of the parameter's group.
        weight_decay: of the group, 0 where the optimizer has none.
    """

    optimizer: torch.optim.Optimizer
    gradient: Tensor | None
    before: Tensor
    after: Tensor
    lr: float
    weight_decay: float

    def cosine(self, gradient: Tensor) -> float:
        """Between the update without its weight decay and a gradient, double precision; below 0 is descent.

        Decay is taken out as AdamW does it (a share of the parameter beside the update) and as SGD does it (a part of
        the gradient), and the lower cosine counts: which of the two an optimizer uses it need not say.
        """
        change, before = self.after.double() - self.before.double(), self.before.double()
        beside = change + self.lr * self.weight_decay * before
        return min(_cosine(beside, gradient.double()), _cosine(change, gradient.double() + self.weight_decay * before))


@contextmanager
def moves_at_updates(parameters: Iterable[nn.Parameter]) -> Iterator[list[dict[nn.Parameter, Move]]]:
    """Record what each optimizer step of the block does to its own parameters among these, one entry a step.

    The hooks are process-wide and gone afterwards. A step that raises leaves no entry.
    """
    watched = set(parameters)
    moves: list[dict[nn.Parameter, Move]] = []
    begun: list[dict[nn.Parameter, tuple[Tensor | None, Tensor]]] = []

    def begin(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
        held = watched & parameters_of(optimizer)
        begun.append({parameter: (gradient_of(parameter), parameter.detach().clone()) for parameter in held})

    def end(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
        found = begun.pop()
        groups = {p: group for group in optimizer.param_groups for p in group["params"] if p in found}
        moves.append({p: _move(optimizer, p, groups[p], *found[p]) for p in found})

    handles = [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)]
    try:
        yield moves
    finally:
        for handle in handles:
            handle.remove()


def _move(
    optimizer: torch.optim.Optimizer,
    parameter: nn.Parameter,
    group: Mapping[str, Any],
    gradient: Tensor | None,
    before: Tensor,
) -> Move:
    lr, decay = float(group.get("lr", 1.0)), float(group.get("weight_decay", 0.0))
    return Move(optimizer, gradient, before, parameter.detach().clone(), lr, decay)


def _cosine(left: Tensor, right: Tensor) -> float:
    norms = float(left.norm() * right.norm())
    return float((left * right).sum()) / norms if norms else 0.0
