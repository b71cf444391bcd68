"""What a watch was handed: modules, optimizers and tensors that are expected to train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder


def owned(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimizer updates."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def meet(recorder: Recorder, subjects: Iterable[Any]) -> None:
    """Note what is handed over, before the block runs."""
    for tensor in handed(subjects):
        if tensor.is_leaf:
            recorder.gradients.meet(tensor, -1)
            if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
                recorder.python_in_backward = True


def handed(subjects: Iterable[Any]) -> list[Tensor]:
    """What is expected to train, of all that was handed over."""
    found: dict[int, Tensor] = {}
    for subject in subjects:
        if isinstance(subject, nn.Module):
            some: Iterable[Tensor] = subject.parameters()
        else:
            some = owned(subject) if isinstance(subject, torch.optim.Optimizer) else [subject]
        found.update((id(tensor), tensor) for tensor in some if tensor.requires_grad)
    return list(found.values())
