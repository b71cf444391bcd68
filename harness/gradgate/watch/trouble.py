"""What goes wrong in a guarded step: damaged saved tensors, an error out of autograd, a loss that is not finite."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradgate.core.finding import Kind
from gradgate.watch import raised

DAMAGE: tuple[Kind, ...] = (
    "inplace_saved", "optimizer_step_between", "silent_data_write", "silent_alias_write", "custom_function",
)  # fmt: skip
NONFINITE: tuple[Kind, ...] = ("nan_forward", "nan_backward", "dtype_overflow")
MODIFIED = "modified by an inplace operation"
# Parts of autograd's own errors, beside those that `raised` knows.
_PARTS = (
    MODIFIED,
    "backward through the graph a second time",
    "after they have already been freed",
    "does not require grad and does not have a grad_fn",
    "returned nan values in its",
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that went wrong.

    Args:
        key: the same thing in another step has the same key.
        ordinals: of saved tensors that were damaged in silence.
        error: what autograd raised.
        returned: what the step returned, where it did.
    """

    key: tuple[Any, ...]
    ordinals: frozenset[int] = frozenset()
    error: RuntimeError | None = None
    returned: Any = None

    def concerns(self, kind: Kind) -> bool:
        """Whether a finding of this kind may be what it came from."""
        if self.error is not None:
            return True
        return kind in (DAMAGE if self.ordinals else NONFINITE)


def raised_by_autograd(error: RuntimeError) -> Trouble | None:
    """The trouble behind an error; None where autograd did not raise it."""
    part = part_of(error)
    if part is None:
        return None
    return Trouble(("raised", part, re.sub(r"version \d+", "version", str(error))), error=error)


def part_of(error: BaseException) -> str | None:
    """The part of an error's text that says that autograd raised it."""
    text = str(error)
    return next((part for part in (*_PARTS, *raised.parts()) if part in text), None)


def not_finite(returned: Any) -> str | None:
    """The name of the first number returned that is NaN or Inf; None where all are finite.

    Args:
        returned: a number or a tensor with one element, or a list, tuple or dict of such.
    """
    return next((name for name, number in _numbers("returned", returned) if not math.isfinite(number)), None)


def _numbers(name: str, value: Any, depth: int = 2) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, Tensor):
        if value.numel() == 1 and value.is_floating_point() and not value.is_meta:
            yield name, float(value.detach())
    elif depth and isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(f"{name}[{key!r}]", part, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _numbers(f"{name}[{i}]", part, depth - 1)
