"""The gradients with which optimizers really step: taken as `optimizer.step()` begins, after clipping and unscaling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer about to step.

    Args:
        optimizer: which.
        gradients: a copy of each watched parameter's gradient at that moment, dense; None where it has none.
    """

    optimizer: torch.optim.Optimizer
    gradients: dict[nn.Parameter, Tensor | None]


@contextmanager
def gradients_at_updates(parameters: Iterable[nn.Parameter]) -> Iterator[list[Update]]:
    """Record every optimizer step of the block, through a process-wide hook that is gone afterwards."""
    watched = list(parameters)
    updates: list[Update] = []

    def record(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
        updates.append(Update(optimizer, {parameter: gradient_of(parameter) for parameter in watched}))

    handle = register_optimizer_step_pre_hook(record)
    try:
        yield updates
    finally:
        handle.remove()


def parameters_of(optimizer: torch.optim.Optimizer) -> set[nn.Parameter]:
    """The parameters that an optimizer holds."""
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}


def gradient_of(parameter: nn.Parameter) -> Tensor | None:
    """A dense copy of a parameter's gradient, or None."""
    if parameter.grad is None:
        return None
    grad = parameter.grad.detach()
    return grad.to_dense() if grad.is_sparse else grad.clone()
