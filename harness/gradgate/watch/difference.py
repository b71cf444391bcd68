"""The first difference between two sets of named values, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two snapshots part.

    Args:
        name: of the value, for example `optimizers[0].state[trunk.weight].exp_avg`.
        text: how far apart, in words and numbers.
        nonfinite: elements of the second state that are NaN or Inf and were finite in the first.
    """

    name: str
    text: str
    nonfinite: int = 0


def first_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Difference | None:
    """The first value, in the order of `before`, that is not the same bit for bit; NaN equals NaN, 0.0 is not -0.0."""
    for name, value in before.items():
        if name not in after:
            return Difference(name, "is gone")
        difference = compare(name, value, after[name])
        if difference is not None:
            return difference
    added = next((name for name in after if name not in before), None)
    return None if added is None else Difference(added, "was not there before")


def compare(name: str, before: Any, after: Any) -> Difference | None:
    """How two values of one name differ; None where they are the same bit for bit."""
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)):
        same = type(before) is type(after) and bool(before == after)
        return None if same else Difference(name, f"{before!r} became {after!r}")
    if before.shape != after.shape or before.dtype != after.dtype:
        return Difference(name, f"{_describe(before)} became {_describe(after)}")
    if torch.equal(_bits(before), _bits(after)):
        return None
    return _tensor_difference(name, before, after)


def _tensor_difference(name: str, before: Tensor, after: Tensor) -> Difference:
    changed = (_bits(before) != _bits(after)).view(before.numel(), -1).any(1)
    first, second = _wide(before)[changed], _wide(after)[changed]
    nonfinite = int((first.isfinite() & ~second.isfinite()).sum())
    distance = (second - first).abs().nan_to_num(nan=torch.inf).max().item()
    text = f"{len(first)} of {before.numel()} elements differ, by up to {distance:.3g}"
    return Difference(name, text + (f", {nonfinite} became NaN or Inf" if nonfinite else ""), nonfinite)


def _wide(tensor: Tensor) -> Tensor:
    """The elements in a dtype that has arithmetic, as float8 has not, and wraps nothing around."""
    return tensor.detach().cpu().reshape(-1).to(torch.complex128 if tensor.is_complex() else torch.float64)


def _bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # One element counts as contiguous with any stride, and its bytes are no view of it.
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
