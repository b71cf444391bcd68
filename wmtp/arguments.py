"""Checks of arguments at the public entrances: shapes and numbers, each refused by its name, without a host read."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor


def require_shape(name: str, tensor: Tensor, expected: tuple[int, ...], axes: str) -> None:
    """Refuse a tensor of another shape.

    Raises:
        ValueError: names the argument, its shape and the expected one with its axis letters.
    """
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected [{', '.join(axes)}] = {list(expected)}")


def require_rank(name: str, tensor: Tensor, axes: str) -> tuple[int, ...]:
    """Refuse a tensor without exactly these axes; returns its shape.

    Raises:
        ValueError: names the argument, its shape and the expected axes.
    """
    if tensor.dim() != len(axes):
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {len(axes)} axes [{', '.join(axes)}]")
    return tuple(tensor.shape)


def require_number(name: str, value: object, *, low: float, high: float = math.inf, low_allowed: bool = True) -> float:
    """Refuse what is not a finite number in the interval; booleans are no numbers.

    Returns:
        The number as a float.

    Raises:
        ValueError: names the argument, what it is, and the interval.
    """
    bound = f"in [{low:g}, {high:g}]" if high < math.inf else f"{'>=' if low_allowed else '>'} {low:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, expected a finite number {bound}")
    too_low = value < low if low_allowed else value <= low
    if not -sys.float_info.max <= value <= sys.float_info.max or too_low or value > high:
        raise ValueError(f"{name} is {value!r}, expected a finite number {bound}")
    return float(value)


def require_horizon(horizon: object) -> int:
    """Refuse a horizon that is not a whole number of at least 1."""
    if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
        raise ValueError(f"horizon is {horizon!r}, expected a whole number of heads >= 1")
    return horizon


def reduction_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype in which sums are safe: float64 where any argument is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
