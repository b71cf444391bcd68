"""Moving a batch: floating tensors to a dtype, all to a device, whatever the batch is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def to_dtype(batch: Any, dtype: torch.dtype, device: str | None = None) -> Any:
    """The batch with its floating tensors in `dtype` and, where `device` is given, all tensors there.

    Args:
        batch: a tensor, or lists, tuples and mappings of them; anything else stays as it is.
        dtype: of floating tensors; integers and masks keep theirs.
        device: None: where they are.
    """
    if isinstance(batch, Tensor):
        return batch.to(device=device or batch.device, dtype=dtype if batch.is_floating_point() else batch.dtype)
    if isinstance(batch, Mapping):
        return {key: to_dtype(value, dtype, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_dtype(value, dtype, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_dtype(value, dtype, device) for value in batch)
    return batch
