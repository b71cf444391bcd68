"""Fingerprints of tensors: a few bytes that change when a number in memory does, taken without a torch operation."""

from __future__ import annotations

import ctypes
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

_pointer_of = torch._C.TensorBase.data_ptr
_storage_of = torch._C.TensorBase.untyped_storage
# Columns into which long memory is summed before the checksum: a prime, so that rows of usual widths do not line up
# with it. Summing runs at about 20 GB/s on one core, where a checksum alone runs at 3.5.
_COLUMNS = 509
_PLAIN = (Tensor, torch.nn.Parameter)
_ROW_BYTES = 8 * _COLUMNS
_LEAST_ROWS = 5
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def fingerprint(tensor: Tensor) -> int | None:
    """A checksum of a tensor's own elements, in the order in which they lie in memory.

    Exact (CRC-32 of the bytes) up to 20 KB, and for elements of eight bytes, whose signs would cancel in pairs. Above,
    64-bit words are summed into 509 columns and the sums are checked: an edit stays unseen only where its changes
    cancel in every column. The number of rows is odd, so that the same change everywhere (a power of two) never does.
    On a device, such sums are taken there.

    Args:
        tensor: of any dtype and strides; its values are not copied where its elements lie side by side.

    Returns:
        The checksum; None where the memory is not there: sparse tensors, and what FSDP frees and gathers again.
    """
    if type(tensor) not in _PLAIN or not is_backed(tensor):
        return None
    if tensor.device.type != "cpu":
        return hash(tuple(folded(tensor).tolist()))
    if not tensor.numel():
        return 0
    if tensor.is_contiguous():
        memory: Any = (ctypes.c_char * tensor.nbytes).from_address(_pointer_of(tensor))
    else:
        memory = _elements(tensor)
    size = tensor.nbytes
    if size < _LEAST_ROWS * _ROW_BYTES or tensor.element_size() >= 8:
        return zlib.crc32(memory)
    rows = (size // _ROW_BYTES - 1) | 1
    if rows * _ROW_BYTES > size:
        rows -= 2
    words = np.frombuffer(memory, np.uint64, rows * _COLUMNS).reshape(rows, _COLUMNS)
    checksum = zlib.crc32(np.add.reduce(words, axis=0))
    return zlib.crc32(memoryview(memory).cast("B")[rows * _ROW_BYTES :], checksum)


def is_backed(tensor: Tensor) -> bool:
    """Whether a tensor's memory is there."""
    try:
        held = _storage_of(tensor).nbytes()
    except (NotImplementedError, RuntimeError):
        return False
    return tensor.layout == torch.strided and (tensor.numel() == 0 or held > 0)


def _elements(tensor: Tensor) -> Any:
    """The elements in the order of memory, each once, side by side; a copy only where they are not."""
    size = tensor.element_size()
    axes = sorted(
        ((stride, count) for stride, count in zip(tensor.stride(), tensor.shape, strict=True) if stride and count > 1),
        reverse=True,
    )
    extent = sum((count - 1) * stride for stride, count in axes) + 1
    memory: Any = (ctypes.c_char * (extent * size)).from_address(_pointer_of(tensor))
    array: Any = np.ndarray(
        [count for _, count in axes], _WORDS.get(size, f"V{size}"), memory, 0, [stride * size for stride, _ in axes]
    )
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def folded(tensor: Tensor) -> Tensor:
    """The sums of a tensor's bits in 509 columns, and of what is left over, on its own device; nothing is read back.

    Args:
        tensor: of any dtype and strides.

    Returns:
        Int64[510].
    """
    with torch._C._DisableTorchDispatch(), torch.no_grad():
        flat = tensor.detach().resolve_conj().resolve_neg().contiguous().flatten()
        bits = flat.view({1: torch.uint8, 2: torch.int16}.get(flat.element_size(), torch.int32))
        rows = (bits.numel() // _COLUMNS - 1) | 1 if bits.numel() >= _COLUMNS else 0
        head, tail = bits[: rows * _COLUMNS], bits[rows * _COLUMNS :].to(torch.int64)
        place = torch.arange(1, tail.numel() + 1, device=tail.device)
        return torch.cat([head.view(rows, _COLUMNS).sum(0, dtype=torch.int64), (tail * place).sum().reshape(1)])
