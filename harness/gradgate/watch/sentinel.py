"""The sentinel: saved-tensor hooks that check versions and fingerprints, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradgate.watch import transforms
from gradgate.watch.fingerprints import fingerprint
from gradgate.watch.saved import is_output, mismatch_text, mismatch_words

# Every seventh step takes all fingerprints, the others those of shared memory alone. All at once costs a seventh of
# 1.12, spread over the steps (each eighth tensor) it cost 1.09: the code is then cold at each call. Seven is prime to
# the usual cycles of accumulation and alternation, whose phases are all met in turn.
EVERY = 7
_PLAIN = (Tensor, torch.nn.Parameter)
_storage_of = torch._C.TensorBase.untyped_storage
_sequence = torch._C._autograd._get_sequence_nr
_transforming = torch._C._are_functorch_transforms_active


class Sentinel:
    """Watches what the graphs of a step save. A saved tensor is known by its ordinal: how many came before it.

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
        self._all = True
        self._shared: set[int] = set()  # ordinals whose memory something outside torch was found to share

    def __enter__(self) -> None:
        """A step begins."""
        mismatch_words()
        self.damaged.clear()
        self._count = 0
        self._step += 1
        self._all = not self._step % EVERY
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
        kept, output = tensor, -1
        grad_fn = tensor.grad_fn
        if grad_fn is not None and is_output(grad_fn, _sequence() - 1):
            kept, output = tensor.detach(), tensor.output_nr
        mark = None
        if (self._all or ordinal in self._shared or _is_shared(tensor)) and _has_numbers(tensor):
            mark = fingerprint(tensor)
        # A tuple, since making an object costs five times as much.
        return kept, tensor._version, output, ordinal, mark

    def unpack(self, kept: Any) -> Tensor:
        """The unpack hook: PyTorch's own check is off under hooks, so this one makes it."""
        if type(kept) is not tuple:
            return kept  # type: ignore[no-any-return]
        tensor, version, output, ordinal, mark = kept
        if tensor._version != version:
            raise RuntimeError(mismatch_text(tensor, version, _output_of(output)))
        if (mark is None or self._all) and _is_shared(tensor):
            self._shared.add(ordinal)
        if mark is not None and fingerprint(tensor) != mark and not self._is_harmless(tensor, output, ordinal):
            self.damaged.add(ordinal)
        return tensor  # type: ignore[no-any-return]

    def _is_harmless(self, tensor: Tensor, output: int, ordinal: int) -> bool:
        return ordinal in self.harmless or _is_own_write(tensor, output)


def _output_of(output: int) -> str:
    node: Any = torch._C._current_autograd_node()
    return "" if output < 0 or node is None else f", which is output {output} of {node.name()},"


def _is_own_write(tensor: Tensor, output: int) -> bool:
    """Whether a batch norm in training saved the running statistics that it then updated: its backward reads none."""
    if tensor.dim() != 1 or tensor.requires_grad or output >= 0:
        return False
    node: Any = torch._C._current_autograd_node()
    name = "" if node is None else node.name()
    return "BatchNorm" in name and bool(getattr(node, "_saved_training", "WithUpdate" in name))


def _has_numbers(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN and tensor.layout == torch.strided


def _is_shared(tensor: Tensor) -> bool:
    """Whether something outside torch may write the memory: numpy, DLPack, a buffer."""
    try:
        return not _storage_of(tensor).resizable()
    except (NotImplementedError, RuntimeError):  # sparse and opaque tensors have no storage
        return False
