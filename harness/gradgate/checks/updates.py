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
    """Record every optimizer step of the block, through a process-wide hook that is gone afterwards.

    A fused optimizer unscales a GradScaler's gradients itself, and skips what overflowed: recorded are gradients as it
    uses them, and no update that it does not make.
    """
    watched = list(parameters)
    updates: list[Update] = []

    def record(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
        if is_skipped(optimizer):
            return
        scale = getattr(optimizer, "grad_scale", None)
        gradients = {parameter: gradient_of(parameter) for parameter in watched}
        if scale is not None:
            own = parameters_of(optimizer)
            gradients |= {p: g / scale for p, g in gradients.items() if g is not None and p in own}
        updates.append(Update(optimizer, gradients))

    handle = register_optimizer_step_pre_hook(record)
    try:
        yield updates
    finally:
        handle.remove()


def is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer is about to step and to change nothing, since a GradScaler found an overflow."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def parameters_of(optimizer: torch.optim.Optimizer) -> set[nn.Parameter]:
    """The parameters that an optimizer holds."""
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}


def held_by(optimizers: Iterable[torch.optim.Optimizer]) -> set[nn.Parameter]:
    """The parameters that any of several optimizers holds."""
    return {parameter for optimizer in optimizers for parameter in parameters_of(optimizer)}


def gradient_of(parameter: nn.Parameter) -> Tensor | None:
    """A dense copy of a parameter's gradient, or None."""
    if parameter.grad is None:
        return None
    grad = parameter.grad.detach()
    return grad.to_dense() if grad.is_sparse else grad.clone()
