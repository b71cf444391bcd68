"""Copies of tensors into buffers that are used again from step to step, and back."""

from __future__ import annotations

from collections.abc import Iterable
from operator import is_

import torch
from torch import Tensor

_set_versions = torch._C._autograd._unsafe_set_version_counter


class Unsnapshotable(Exception):  # noqa: N818 - not a user's mistake: the run goes on, without a replay
    """Something whose numbers cannot be copied and put back; the text says what."""


class Copies:
    """The numbers and versions of a list of tensors at one moment.

    Args:
        tensors: whose.
        buffers: their numbers; a buffer is used again where its tensor has the same shape, dtype and device.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self._versions: list[int] = []

    def take(self, tensors: list[Tensor]) -> None:
        """Copy.

        Args:
            tensors: the list is kept.

        Raises:
            Unsnapshotable: one has no numbers of its own.
        """
        self.prepare(tensors)
        self.copy()

    def prepare(self, tensors: list[Tensor]) -> None:
        """Make room and note versions; `copy` is still to come."""
        same = len(tensors) == len(self.tensors) == len(self.buffers)
        if not same or not all(map(is_, tensors, self.tensors)):
            self._align(tensors)
        self.tensors = tensors
        self._versions = [tensor._version for tensor in tensors]

    def copy(self) -> None:
        """Copy the numbers of what was prepared."""
        _copy(self.buffers, self.tensors)

    def moved(self) -> bool:
        """Whether a version has moved since."""
        return [tensor._version for tensor in self.tensors] != self._versions

    def release(self) -> None:
        """Let go of the tensors, and keep the buffers."""
        self.tensors = []

    def put_back(self) -> None:
        """Write the numbers back; versions are what they were, so that graphs that are alive stay valid."""
        _copy(self.tensors, self.buffers)
        set_versions(self.tensors, self._versions)

    def _align(self, tensors: list[Tensor]) -> None:
        spare = self.buffers
        self.buffers = [
            spare[i] if i < len(spare) and _alike(spare[i], tensor) else _room_for(tensor)
            for i, tensor in enumerate(tensors)
        ]


def set_versions(tensors: Iterable[Tensor], versions: Iterable[int]) -> None:
    """Set the version counters of tensors."""
    _set_versions(tuple(tensors), tuple(versions))


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            torch._foreach_copy_(targets, sources)


def _alike(buffer: Tensor, tensor: Tensor) -> bool:
    return buffer.shape == tensor.shape and buffer.dtype == tensor.dtype and buffer.device == tensor.device


def _room_for(tensor: Tensor) -> Tensor:
    described = f"{type(tensor).__name__} {str(tensor.dtype).removeprefix('torch.')}"
    if type(tensor).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl:
        raise Unsnapshotable(f"{described} has operations of its own")
    if torch.nn.parameter.is_lazy(tensor):
        raise Unsnapshotable(f"{described} has no shape yet")
    if tensor.is_inference() or tensor.layout != torch.strided or tensor.is_meta:
        kind = "an inference tensor" if tensor.is_inference() else f"on {tensor.device}, layout {tensor.layout}"
        raise Unsnapshotable(f"{described}{list(tensor.shape)} is {kind}")
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise Unsnapshotable(f"{described}{list(tensor.shape)} is expanded: several elements share memory")
    return torch.empty_like(tensor, requires_grad=False)
