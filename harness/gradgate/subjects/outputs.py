"""Logits among what a module returns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

LOGITS = "logits"
HEADED = 4  # axes of logits [B, S, H, V]


def logits_in(output: Any) -> Tensor | None:
    """The logits of a module's output: the tensor itself, the first of a tuple, or what a mapping or an object calls
    `logits`.

    Returns:
        None where there is no such.
    """
    if type(output) is tuple and output:
        output = output[0]
    found = output.get(LOGITS) if isinstance(output, Mapping) else getattr(output, LOGITS, output)
    return found if isinstance(found, Tensor) else None


@contextmanager
def logits_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The logits that a module returns inside the block, keeping their gradients."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        logits = logits_in(output)
        if logits is not None and logits.requires_grad:
            logits.retain_grad()
            outputs.append(logits)

    handle = module.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def are_of_heads(logits: Tensor) -> bool:
    """Whether these are [B, S, H, V], or [B, S, V] of a model with one head."""
    return logits.dim() in (HEADED - 1, HEADED)


def by_head(logits: Tensor) -> Tensor:
    """Float[B, S, H, V]: as they are, or [B, S, V] with an axis of one head, which is a view of them."""
    return logits if logits.dim() == HEADED else logits[:, :, None]


def with_logits(output: Any, logits: Tensor) -> Any:
    """A module's output with other logits in their place; what else it holds stays."""
    if isinstance(output, Tensor):
        return logits
    if type(output) is tuple:
        return (with_logits(output[0], logits), *output[1:])
    if isinstance(output, tuple) and hasattr(output, "_replace"):
        return output._replace(**{LOGITS: logits})
    changed = copy.copy(output)
    if isinstance(changed, Mapping):
        changed[LOGITS] = logits  # type: ignore[index]
    else:
        setattr(changed, LOGITS, logits)
    return changed
