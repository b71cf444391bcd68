"""Logits among what a module returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

LOGITS = "logits"


def logits_in(output: Any) -> Tensor | None:
    """The logits of a module's output: the tensor itself, or what a mapping or an object calls `logits`.

    Returns:
        None where there is neither.
    """
    found = output.get(LOGITS) if isinstance(output, Mapping) else getattr(output, LOGITS, output)
    return found if isinstance(found, Tensor) else None


def with_logits(output: Any, logits: Tensor) -> Any:
    """A module's output with other logits in their place; what else it holds stays."""
    if isinstance(output, Tensor):
        return logits
    changed = copy.copy(output)
    if isinstance(changed, Mapping):
        changed[LOGITS] = logits  # type: ignore[index]
    else:
        setattr(changed, LOGITS, logits)
    return changed
