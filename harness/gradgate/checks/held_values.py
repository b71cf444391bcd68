"""The values that are reachable from an object, by name: tensors, numbers, texts and the states of generators."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradgate.checks.run_parts import FOREIGN, attributes_of, fleeting_buffers, is_code

DEPTH = 8  # of nested objects; nobody keeps a counter deeper
LEAF = Tensor | int | float | str | bytes | None


def values_in(
    name: str,
    value: Any,
    seen: dict[int, object],
    *,
    longest: int = sys.maxsize,
    without: Callable[[Any], bool] = is_code,
    depth: int = DEPTH,
) -> Iterator[tuple[str, Any]]:
    """What is in a value, each with its name.

    Args:
        name: of the value.
        value: anything.
        seen: the objects that were looked into, by their ids; those of this value are added.
        longest: the entries of the longest list that is looked into.
        without: whether an object is not looked into.
        depth: of nested objects.
    """
    if isinstance(value, LEAF):
        yield name, value
        return
    is_long = isinstance(value, list | tuple) and len(value) > longest
    if depth == 0 or id(value) in seen or without(value) or is_long:
        return
    seen[id(value)] = value  # kept: the number of an object that is gone may be another's
    for key, inner in _children(value):
        yield from values_in(f"{name}{key}", inner, seen, longest=longest, without=without, depth=depth - 1)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """What is inside a container or an object of the subject's own."""
    if isinstance(value, torch.Generator):
        yield ".state", value.get_state()
    elif isinstance(value, random.Random):
        yield ".state", repr(value.getstate())
    elif isinstance(value, np.random.Generator):
        yield ".state", repr(value.bit_generator.state)
    elif isinstance(value, np.random.RandomState):
        kind, key, *rest = value.get_state()
        yield ".state", repr((kind, np.asarray(key).tolist(), *rest))
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", inner) for key, inner in value.items() if isinstance(key, str | int))
        # Keys that are objects, such as an optimizer's parameters, have names of their own in `state_dict`.
    elif isinstance(value, list | tuple):
        yield from ((f"[{i}]", inner) for i, inner in enumerate(value))
    elif isinstance(value, nn.Module | torch.optim.Optimizer) or _is_foreign(value):
        if hasattr(value, "state_dict"):
            yield ".state_dict()", value.state_dict()
        if isinstance(value, nn.Module):
            yield from ((f".{name}", value.get_buffer(name)) for name in fleeting_buffers(value))
            yield from ((f".{'.'.join(inside)}", inner) for inside, _, inner in attributes_of(value))
    else:
        yield from ((f".{key}", inner) for key, inner in getattr(value, "__dict__", {}).items())


def _is_foreign(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in FOREIGN
