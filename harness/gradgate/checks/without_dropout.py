"""Dropout that drops nothing, so that two batches of different shapes can be compared number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Kept(TorchDispatchMode):
    """Every draw of a Bernoulli mask gives ones, or, without scales, what a division by 1 - p makes ones of."""

    def __init__(self, *, scales: bool) -> None:
        super().__init__()
        self._scales = scales

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name == "aten::bernoulli_":
            kept = 1.0 if self._scales else args[1] if len(args) > 1 else 0.5  # a default is not handed on
            return args[0].copy_(kept) if isinstance(kept, torch.Tensor) else args[0].fill_(kept)
        if name == "aten::native_dropout":
            scale = 1.0 / (1.0 - args[1]) if self._scales and args[2] is not False and args[1] < 1.0 else 1.0
            return args[0] * scale, torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **(kwargs or {}))


@contextmanager
def without_dropout(*, scales: bool = True) -> Iterator[None]:
    """Run a block in which dropout keeps everything; other random numbers are drawn as ever.

    Args:
        scales: whether what is kept is divided by 1 - p, as dropout does; without it a module gives in train mode what
            it gives in eval mode.
    """
    with _Kept(scales=scales):
        yield
