"""Dropout that drops nothing, so that two batches of different shapes can be compared number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Kept(TorchDispatchMode):
    """Every draw of a Bernoulli mask gives ones; the scale by 1 / (1 - p) stays, the same everywhere."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name == "aten::bernoulli_":
            return args[0].fill_(1.0)
        if name == "aten::native_dropout":
            scale = 1.0 / (1.0 - args[1]) if args[2] is not False and args[1] < 1.0 else 1.0
            return args[0] * scale, torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **(kwargs or {}))


@contextmanager
def without_dropout() -> Iterator[None]:
    """Run a block in which dropout keeps everything; other random numbers are drawn as ever."""
    with _Kept():
        yield
