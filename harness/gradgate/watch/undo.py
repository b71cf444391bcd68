"""What a replay writes beyond the listed state: kept before the first write, and put back afterwards."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from gradgate.watch.copies import Unsnapshotable, set_versions
from gradgate.watch.gradients import _descriptor, _grad_of
from gradgate.watch.ops import facts_of, written
from gradgate.watch.saved import NO_STORAGE, storage_key
from gradgate.watch.snapshot import Snapshot
from gradgate.watch.state import State

_storage_of = torch._C.TensorBase.untyped_storage


class _Leaf(NamedTuple):
    """A leaf beyond the state, and its gradient before the replay used it."""

    tensor: Tensor
    gradient: Tensor | None
    numbers: Any
    version: int


def _gradient(tensor: Tensor) -> tuple[Tensor | None, Any, int]:
    gradient = _grad_of(tensor)
    return (None, None, 0) if gradient is None else (gradient, gradient.detach().clone(), gradient._version)


def _columns(pairs: Iterable[tuple[Tensor, int]]) -> tuple[list[Tensor], list[int]]:
    held = list(pairs)
    return [tensor for tensor, _ in held], [version for _, version in held]


class Undo:
    """Everything torch that is alive when a replay begins, and what of it the replay changed.

    Args:
        listed: tensors that somebody else puts back.
        optimizers: likewise.
    """

    def __init__(self, listed: Iterable[Tensor], optimizers: Iterable[Any]) -> None:
        self.unlisted: dict[int, str] = {}  # optimizers that stepped and are not in the state
        self._stepped: set[int] = set()
        self._thread = threading.get_ident()
        self._optimizers = {id(optimizer) for optimizer in optimizers}
        known = {id(tensor) for tensor in listed}
        self._known = {storage_key(tensor) for tensor in listed}
        self._alive: dict[int, StorageWeakRef] = {}
        self._unlisted: dict[int, Tensor] = {}  # leaves
        self._leaves: dict[int, _Leaf] = {}  # those of them that the replay used
        self._kept: dict[int, Any] = {}
        self._versions: dict[int, tuple[Tensor, int]] = {}
        self._snapshots: list[Snapshot] = []
        for tensor in (thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)):
            self._meet(tensor, known)
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_module_forward_pre_hook(self._before_forward),
        ]

    def _meet(self, tensor: Tensor, known: set[int]) -> None:
        if torch.nn.parameter.is_lazy(tensor) or not torch._C._has_storage(tensor) or tensor.is_meta:
            return
        key = storage_key(tensor)
        if key == NO_STORAGE:
            return
        self._alive[key] = StorageWeakRef(_storage_of(tensor))
        if tensor.is_leaf and tensor.requires_grad and id(tensor) not in known:
            self._unlisted[id(tensor)] = tensor

    def before_use(self, tensor: Tensor) -> None:
        """The replay is about to use a leaf, or to touch its gradient.

        Not before, and no other leaf: it may be another thread's, whose backward writes gradients without the
        interpreter's lock, and reading one meanwhile can end the process.
        """
        if self._unlisted.get(id(tensor)) is tensor and id(tensor) not in self._leaves:
            with torch._C._DisableTorchDispatch():
                self._leaves[id(tensor)] = _Leaf(tensor, *_gradient(tensor))

    def before_write(self, targets: Iterable[Tensor]) -> None:
        """An operation of the replay is about to write."""
        for tensor in targets:
            key = storage_key(tensor)
            if key not in self._alive or key in self._known or tensor.is_inference():
                continue
            self._versions.setdefault(id(tensor), (tensor, tensor._version))
            if key not in self._kept:
                self._kept[key] = _storage_of(tensor).clone()

    def gradients(self, *, before: bool = False) -> dict[str, Any]:
        """Copies of the gradients of leaves beyond the state that the replay used, by name.

        Args:
            before: as they were when the replay began.
        """
        return {
            f"the gradient of leaf {number}, shape {list(leaf.tensor.shape)}": (
                leaf.numbers if before else _gradient(leaf.tensor)[1]
            )
            for number, leaf in enumerate(self._leaves.values())
        }

    def put_back(self) -> None:
        """Undo what was written; the next replay begins where this one did."""
        for snapshot in reversed(self._snapshots):
            snapshot.restore()
        for key, numbers in self._kept.items():
            storage = torch.UntypedStorage._new_with_weak_ptr(self._alive[key].cdata)
            if storage is not None:
                storage.copy_(numbers, False)
        set_versions(*_columns(self._versions.values()))
        for leaf in self._leaves.values():
            _descriptor.__set__(leaf.tensor, leaf.gradient)
            if leaf.gradient is not None:
                with torch.no_grad():
                    leaf.gradient.copy_(leaf.numbers)
                set_versions([leaf.gradient], [leaf.version])
        self._snapshots, self._kept, self._versions = [], {}, {}
        self._stepped = set()

    def close(self) -> None:
        """Leave optimizers and modules alone again."""
        for handle in self._handles:
            handle.remove()

    def _before_forward(self, module: nn.Module, _: Any) -> None:
        """A batch norm writes its running statistics in an operation whose schema does not say so."""
        if threading.get_ident() == self._thread and module._buffers:
            self.before_write([buffer for buffer in module._buffers.values() if buffer is not None])

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if threading.get_ident() != self._thread or id(optimizer) in self._optimizers | self._stepped:
            return
        self._stepped.add(id(optimizer))
        self.unlisted[id(optimizer)] = type(optimizer).__name__
        snapshot = Snapshot(State([optimizer]), exact=True)
        try:
            snapshot.take()
        except Unsnapshotable:
            return
        self._snapshots.append(snapshot)


class Writes(TorchDispatchMode):
    """Tells an Undo of each write, where no recorder does."""

    def __init__(self, undo: Undo) -> None:
        super().__init__()
        self._undo = undo

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        facts = facts_of(func)
        if facts.writes:
            self._undo.before_write(written(facts, args, kwargs))
        return func(*args, **(kwargs or {}))
