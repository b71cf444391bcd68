"""Batches of any make: find their leaves, put another value in one place, compare two of them."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgate.checks.snapshot import Difference, compare

Path = tuple[tuple[str, Any], ...]  # steps from the batch to a leaf: ("item", key or index) or ("attribute", name)


def leaves(batch: Any) -> list[tuple[Path, Any]]:
    """Every leaf of a batch with the path to it.

    Args:
        batch: tensors in mappings, lists, tuples, dataclasses and plain objects, nested as deep as they like.

    Returns:
        Tensors, arrays, numbers, strings and whatever else has no parts; an object met twice is entered once.
    """
    return list(_walk(batch, (), set()))


def named(path: Path) -> str:
    """A path as a reader writes it: `batch["mask"]`, `batch.reward_B`, `batch[0]`."""
    return "batch" + "".join(f"[{key!r}]" if how == "item" else f".{key}" for how, key in path)


def floating_leaves(batch: Any) -> list[tuple[Path, Any]]:
    """The leaves that can hold a NaN: floating tensors and arrays with elements, and floats; masks as floats cannot."""
    return [(path, leaf) for path, leaf in leaves(batch) if _is_floating(leaf) and not is_mask(leaf)]


def is_mask(leaf: Any) -> bool:
    """Whether floats [B, S, ...] say which positions count: they are 0 and 1. Lengths and indices come from them."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.dim() < len("BS") or not leaf.numel():
        return False
    return bool(((leaf == 0) | (leaf == 1)).all()) and bool(leaf.any())


def filled(leaf: Any, value: float) -> Any:
    """A copy of a floating leaf with every element `value`."""
    if isinstance(leaf, Tensor):
        return torch.full_like(leaf, value)
    return np.full_like(leaf, value) if isinstance(leaf, np.ndarray) else value


def replaced(batch: Any, path: Path, leaf: Any) -> Any:
    """A batch like `batch` with another leaf at `path`; containers on the way are copied, the rest is shared."""
    if not path:
        return leaf
    (how, key), rest = path[0], path[1:]
    if how == "attribute":
        other = copy.copy(batch)
        object.__setattr__(other, key, replaced(getattr(batch, key), rest, leaf))
        return other
    if isinstance(batch, tuple):
        items = [replaced(item, rest, leaf) if i == key else item for i, item in enumerate(batch)]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    other = copy.copy(batch)
    other[key] = replaced(batch[key], rest, leaf)
    return other


def first_difference(left: Any, right: Any) -> Difference | None:
    """The first leaf in which two batches differ, bit for bit; None where they are the same."""
    ours, theirs = leaves(left), leaves(right)
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        return Difference("batch", f"{len(ours)} leaves became {len(theirs)}, or other names")
    pairs = ((named(path), _plain(a), _plain(b)) for (path, a), (_, b) in zip(ours, theirs, strict=True))
    return next((found for found in (compare(*pair) for pair in pairs) if found is not None), None)


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return torch.from_numpy(leaf.copy()) if leaf.dtype.kind in "biufc" else leaf.tolist()
    if isinstance(leaf, float) and math.isnan(leaf):
        return "nan"
    return leaf if isinstance(leaf, Tensor | int | float | str | bytes | None) else type(leaf).__name__


def _is_floating(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        return leaf.is_floating_point() and leaf.numel() > 0
    return isinstance(leaf, float) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" and leaf.size > 0)


def _walk(value: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Any]]:
    parts = _parts(value)
    if parts is None:
        yield path, value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for step, part in parts:
        yield from _walk(part, (*path, step), seen)


def _parts(value: Any) -> list[tuple[tuple[str, Any], Any]] | None:
    if isinstance(value, Mapping):
        return [(("item", key), part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(("item", i), part) for i, part in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(("attribute", field.name), getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, Tensor | np.ndarray | type) or callable(value) or not hasattr(value, "__dict__"):
        return None
    return [(("attribute", name), part) for name, part in vars(value).items()]
