"""Saved-tensor hooks of others inside the block: checkpointing, `save_on_cpu`, a program's own.

Only the innermost pair of hooks applies, and under any hook PyTorch's own version check is off. So ours go around
theirs: what they keep stays theirs, and the recorder remembers the tensor weakly, holding nothing that they let go.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradgate.watch.saved import PLAIN, Saved, Shelf, _storage_of, storage_key

Pack = Callable[[Tensor], Any]
Unpack = Callable[[Any], Tensor]
_sequence = torch._C._autograd._get_sequence_nr


def _nothing() -> None:
    return None


class Glimpse(Saved):
    """A saved tensor that someone else keeps, or computes again."""

    __slots__ = ("_base", "_layout", "_reference", "_storage", "_unpacked")

    def __init__(self, shelf: Shelf, tensor: Tensor, seq: int, storage: torch.UntypedStorage) -> None:
        super().__init__(shelf, tensor, tensor._version, seq, storage._cdata, "")
        self._storage = StorageWeakRef(storage)  # keeps the address from being given to another

    @property
    def tensor(self) -> Tensor:
        """The tensor that was saved, what came of it when backward asked for it, or its place in the base it was of."""
        there = self._reference()
        if there is None:
            there = self._unpacked
        if there is None:
            base = self._base()
            with torch._C._DisableTorchDispatch(), torch.no_grad():
                there = base.detach().as_strided(*self._layout)  # type: ignore[union-attr]
        return there

    @tensor.setter
    def tensor(self, tensor: Tensor) -> None:
        base = tensor._base
        self._reference: Callable[[], Tensor | None] = weakref.ref(tensor)
        self._base: Callable[[], Tensor | None] = _nothing if base is None else weakref.ref(base)
        self._layout = (tensor.shape, tensor.stride(), tensor.storage_offset())
        self._unpacked: Tensor | None = None

    def is_there(self) -> bool:
        """Whether its numbers can still be looked at."""
        return self._reference() is not None or self._unpacked is not None or self._base() is not None

    def lies_at(self, layout: tuple[Any, ...]) -> bool:
        """Whether its shape, strides and offset are these."""
        return self._layout == layout

    def damaged_in(self, unpacked: Tensor) -> bool:
        """Whether a tensor that backward gets is the one that was saved, overwritten since."""
        if not any(write.changed for write in self.writes):
            return False
        return storage_key(unpacked) == self.key

    def looking_at(self, unpacked: Tensor | None) -> Glimpse:
        """Take what was unpacked for the tensor, while that is looked at; None lets it go."""
        self._unpacked = unpacked
        return self


@dataclass(slots=True)
class _Parcel:
    """What a stranger's pack hook returned, and our glimpse of what it was given."""

    glimpse: Glimpse
    kept: Any


class Strangers:
    """Goes around the hooks of others.

    Args:
        shelf: where glimpses are found when something writes.
        on_damaged: gets a glimpse whose tensor backward has just been given, overwritten.
        running: whether a backward runs: what is saved now belongs to a recomputation.
    """

    def __init__(self, shelf: Shelf, on_damaged: Callable[[Glimpse], None], running: Callable[[], bool]) -> None:
        self._shelf, self._on_damaged, self._running = shelf, on_damaged, running
        self._recomputed: list[Glimpse] = []

    def around(self, pack: Pack, unpack: Unpack) -> tuple[Pack, Unpack]:
        """Their hooks, with ours around them."""

        def packed(tensor: Tensor) -> Any:
            kept = pack(tensor)
            if type(tensor) not in PLAIN or torch._C._are_functorch_transforms_active():
                return kept
            try:
                storage = _storage_of(tensor)
            except (NotImplementedError, RuntimeError):  # sparse and opaque tensors have none
                return kept
            glimpse = self._shelf.put(Glimpse(self._shelf, tensor, _sequence() - 1, storage))
            if self._running():
                self._recomputed.append(glimpse)
            return _Parcel(glimpse, kept)

        def unpacked(parcel: Any) -> Tensor:
            if not isinstance(parcel, _Parcel):
                return unpack(parcel)
            tensor = unpack(parcel.kept)
            for glimpse in (parcel.glimpse, *self._again(tensor)):
                if glimpse.damaged_in(tensor):
                    self._on_damaged(glimpse.looking_at(tensor))
                    glimpse.looking_at(None)
                    break
            return tensor

        return packed, unpacked

    def forget(self) -> None:
        """A backward is over: what it recomputed is gone."""
        self._recomputed.clear()

    def _again(self, tensor: Tensor) -> list[Glimpse]:
        """Glimpses of a tensor from the recomputation that made it."""
        if not self._recomputed:
            return []
        key, layout = storage_key(tensor), (tensor.shape, tensor.stride(), tensor.storage_offset())
        return [glimpse for glimpse in self._recomputed if glimpse.key == key and glimpse.lies_at(layout)]
