"""The sentinel: saved-tensor hooks that check versions and fingerprints, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradgate.watch import transforms
from gradgate.watch.fingerprints import fingerprint
from gradgate.watch.saved import kept_as, mismatch_text, mismatch_words

EVERY = 8  # each saved tensor gets a fingerprint at least every so many steps
_PLAIN = (Tensor, torch.nn.Parameter)
_storage_of = torch._C.TensorBase.untyped_storage
_sequence = torch._C._autograd._get_sequence_nr
_transforming = torch._C._are_functorch_transforms_active


class _Kept:
    """One tensor that a node saved."""

    __slots__ = ("ordinal", "output_of", "print", "tensor", "version")

    def __init__(self, tensor: Tensor, version: int, output_of: str, ordinal: int) -> None:
        self.tensor, self.version, self.output_of, self.ordinal = tensor, version, output_of, ordinal
        self.print: int | None = None


class Sentinel:
    """Watches what the graphs of a step save.

    The first step takes every fingerprint; later ones take each eighth, in turns, and those of memory that something
    outside torch shares. A saved tensor is known by its ordinal: how many were saved before it in the step.

    Attributes:
        damaged: ordinals of saved tensors that backward has read and that were not what was saved; of this step.
        harmless: ordinals that the operation which saved them changes itself.
    """

    steps_aside = True

    def __init__(self) -> None:
        self.damaged: set[int] = set()
        self.harmless: set[int] = set()
        self._count = 0
        self._step = -1
        self._shared: set[int] = set()  # ordinals whose memory something outside torch was found to share

    def __enter__(self) -> None:
        """A step begins."""
        mismatch_words()
        self.damaged.clear()
        self._count = 0
        self._step += 1
        transforms.step_aside()
        torch._C._autograd._push_saved_tensors_default_hooks(self.pack, self.unpack)

    def __exit__(self, *_: object) -> None:
        """It is over, or has failed."""
        torch._C._autograd._pop_saved_tensors_default_hooks()
        transforms.stay()

    def pack(self, tensor: Tensor) -> Any:
        """The pack hook."""
        if _transforming():
            return tensor.detach() if tensor.grad_fn is not None else tensor
        ordinal = self._count
        self._count = ordinal + 1
        held, output_of = kept_as(tensor, _sequence() - 1)
        kept = _Kept(held, tensor._version, output_of, ordinal)
        if type(tensor) in _PLAIN and self._wants(tensor, ordinal):
            kept.print = fingerprint(tensor)
        return kept

    def _wants(self, tensor: Tensor, ordinal: int) -> bool:
        """Whether it is this tensor's turn, or its memory is shared."""
        if not self._step or not (ordinal + self._step) % EVERY or ordinal in self._shared:
            return _has_storage(tensor)
        return _is_shared(tensor)

    def unpack(self, kept: Any) -> Tensor:
        """The unpack hook: PyTorch's own check is off under hooks, so this one makes it."""
        if not isinstance(kept, _Kept):
            return kept  # type: ignore[no-any-return]
        tensor = kept.tensor
        if tensor._version != kept.version:
            raise RuntimeError(mismatch_text(tensor, kept.version, kept.output_of))
        if kept.print is None:
            if type(tensor) in _PLAIN and _is_shared(tensor):
                self._shared.add(kept.ordinal)
        elif fingerprint(tensor) != kept.print and kept.ordinal not in self.harmless and not _is_own_write(kept):
            self.damaged.add(kept.ordinal)
        return tensor


def _is_own_write(kept: _Kept) -> bool:
    """Whether a batch norm in training saved the running statistics that it then updated: its backward reads none."""
    tensor = kept.tensor
    if tensor.dim() != 1 or tensor.requires_grad or kept.output_of:
        return False
    node: Any = torch._C._current_autograd_node()
    name = "" if node is None else node.name()
    return "BatchNorm" in name and bool(getattr(node, "_saved_training", "WithUpdate" in name))


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided


def _is_shared(tensor: Tensor) -> bool:
    """Whether something outside torch may write the memory: numpy, DLPack, a buffer."""
    return tensor.layout == torch.strided and not _storage_of(tensor).resizable()
