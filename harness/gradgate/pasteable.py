"""Batches as Python that can be pasted: every number, dtype and stride as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

NUMBERS = "from math import inf, nan"


def pasteable(batch: Any, name: str = "batch") -> str:
    """A program that builds a batch again: imports, then one assignment.

    Args:
        batch: tensors, numbers, strings and None in mappings, lists, tuples, named tuples and dataclasses.
        name: of the variable that the program leaves.

    Returns:
        Python whose `name` equals the batch in value, dtype, shape and stride. Tensors come back on the CPU and as
        leaves, mappings as dicts; what else the batch is made of stands as its `repr`.
    """
    records = {(type(part).__module__, type(part).__name__) for part in _walk(batch) if _is_record(part)}
    imports = [f"from {module} import {kind}" for module, kind in sorted(records)]
    return "\n".join([NUMBERS, "", "import torch", *imports, "", f"{name} = {expression(batch)}"])


def size(batch: Any) -> int:
    """How many numbers the tensors of a batch hold."""
    return sum(part.numel() for part in _walk(batch) if isinstance(part, Tensor))


def expression(value: Any) -> str:
    """A value as one expression, for a namespace with `torch`, `nan`, `inf` and the classes it is made of."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {expression(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(expression, value)) + "]"
    if _is_record(value):
        return f"{type(value).__name__}({', '.join(f'{key}={expression(part)}' for key, part in _fields(value))})"
    if isinstance(value, tuple):
        return "(" + "".join(f"{expression(part)}, " for part in value).rstrip() + ")"
    return repr(value)


def _tensor(tensor: Tensor) -> str:
    """The numbers in their nesting; where the strides are others than that gives, the memory and a view of it."""
    plain = tensor.detach().cpu()
    if plain.stride() == torch.empty(plain.shape, device="meta").stride():
        # An empty list forgets all dimensions behind the first that is empty.
        shape = f".reshape({tuple(plain.shape)})" if not plain.numel() else ""
        return f"torch.tensor({_numbers(plain)}, dtype={plain.dtype}){shape}" + _leaf(tensor)
    last = sum((size - 1) * stride for size, stride in zip(plain.shape, plain.stride(), strict=True))
    memory = plain.as_strided((last + 1 if plain.numel() else 0,), (1,))
    view = f".as_strided({tuple(plain.shape)}, {plain.stride()})"
    return f"torch.tensor({_numbers(memory)}, dtype={plain.dtype}){view}" + _leaf(tensor)


def _numbers(tensor: Tensor) -> str:
    return repr(tensor.tolist())


def _leaf(tensor: Tensor) -> str:
    return ".requires_grad_()" if tensor.requires_grad else ""


def _is_record(value: Any) -> bool:
    return hasattr(value, "_fields") or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _fields(record: Any) -> Iterator[tuple[str, Any]]:
    names = getattr(record, "_fields", None) or [field.name for field in dataclasses.fields(record) if field.init]
    return ((name, getattr(record, name)) for name in names)


def _walk(value: Any) -> Iterator[Any]:
    """A value and all its parts."""
    yield value
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif _is_record(value):
        parts = (part for _, part in _fields(value))
    elif isinstance(value, list | tuple):
        parts = value
    for part in parts:
        yield from _walk(part)
