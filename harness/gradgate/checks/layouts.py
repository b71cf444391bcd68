"""The ways in which a reference's number may lie in a program: its dtype, its shape, or a slice of it each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

Numbers = Sequence[Tensor | None]
_WIDER = 6  # columns that an implementation may have beside the row's, at most


def layouts(value: Tensor, tensors: Sequence[Tensor], outside: float) -> Iterator[tuple[str, Numbers]]:
    """A step in the dtype and the shape of what an operation gave, each time that it was done."""
    count = len(tensors)
    for form, typed in _typed(value, tensors[0].dtype):
        whole = [list(_shaped(typed, tensor.shape, outside)) for tensor in tensors]
        if all(whole):
            for index in range(min(map(len, whole))):
                yield f"{form}{index}", [shapes[index] for shapes in whole]
        if count > 1:
            if whole[-1]:
                yield f"{form}last", [None] * (count - 1) + [whole[-1][0]]
            yield from ((f"{form}{name}", numbers) for name, numbers in _sliced(typed, tensors))


def _sliced(value: Tensor, tensors: Sequence[Tensor]) -> Iterator[tuple[str, Numbers]]:
    """A slice of a step each time: loops over an axis, or over rows and positions."""
    count, shapes = len(tensors), {tensor.shape for tensor in tensors}
    for axis in range(value.dim()):
        slices = value.unbind(axis)
        if len(slices) == count and shapes == {slices[0].shape}:
            yield f"along {axis}", slices
            yield f"against {axis}", slices[::-1]
    if value.dim() >= 2 and value.shape[0] * value.shape[1] == count and shapes == {value.shape[2:]}:
        rows = [row.unbind(0) for row in value.unbind(0)]
        yield "along rows", [item for row in rows for item in row]
        yield "against rows", [item for row in rows for item in row[::-1]]


def _typed(value: Tensor, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """A step as numbers of a dtype; float32 at least, where it is floating."""
    if dtype == torch.bool:
        if value.dtype == torch.bool:
            yield "", value
            yield "not ", ~value
    elif not dtype.is_floating_point:
        if not value.is_floating_point():
            yield "", value.to(dtype)
    else:
        wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        if value.dtype != torch.bool:
            yield "", value.to(wide)
            if value.is_floating_point():
                yield "minus ", -value.to(wide)
        else:
            yield "", value.to(wide)
            yield "not ", (~value).to(wide)
            yield "added ", torch.zeros(value.shape, dtype=wide, device=value.device).masked_fill(~value, -torch.inf)


def _shaped(value: Tensor, shape: torch.Size, outside: float) -> Iterator[Tensor]:
    """A step in a shape that it may have: as it is, flattened, with columns more, of the first few columns."""
    if value.shape == shape:
        yield value
        return
    if value.numel() == shape.numel():
        if value.dim() >= 2 and value.mT.shape == shape:
            yield value.mT
        yield value.reshape(shape)
        return
    if value.dim() == len(shape) >= 2 and value.shape[0] == shape[0] and value.shape[2:] == shape[2:]:
        more = shape[1] - value.shape[1]
        if 0 < more <= _WIDER:
            rest = [0, 0] * (value.dim() - 2)
            yield pad(value, [*rest, 0, more], value=outside)
            yield pad(value, [*rest, more, 0])
        elif -_WIDER <= more < 0 and shape[1] > 0:
            yield value[:, :more]
            yield value[:, -more:]
