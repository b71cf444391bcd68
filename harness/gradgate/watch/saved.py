"""Saved tensors: what the graph keeps for backward, who wrote to it, and whether it is still what was saved."""

from __future__ import annotations

import functools
import math
import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.multiprocessing.reductions import StorageWeakRef

from gradgate.watch.fingerprints import fingerprint
from gradgate.watch.places import Place

PLAIN = (Tensor, torch.nn.Parameter)
_storage_of = torch._C.TensorBase.untyped_storage
_sequence = torch._C._autograd._get_sequence_nr
NO_STORAGE = 0
_MOST_WRITES = 8
_ANOMALY_HINT = (
    " Hint: the backtrace further above shows the operation that failed to compute its gradient. The variable in "
    "question was changed in there or anywhere later. Good luck!"
)


@dataclass(slots=True)
class Write:
    """One write to memory that the graph had saved.

    Args:
        place: the user's line.
        op: the operation; empty where none was dispatched.
        before: the version before it. Autograd moves the version after the operation was dispatched, so what the
            write did to it shows only later.
        changed: it changed the saved numbers.
        by_optimizer: an optimizer's step did it.
        by_backward: a custom backward did it.
    """

    place: Place | None
    op: str
    before: int
    changed: bool = True
    by_optimizer: bool = False
    by_backward: bool = False


@functools.cache
def mismatch_words() -> tuple[bool, str]:
    """How this PyTorch words the error: whether it shortens a node's name, and its hint. To be asked under no hooks."""
    with torch.enable_grad():
        value = torch.zeros(1, requires_grad=True).exp()  # gradgate: ignore[dead-parameter] -- only its graph is wanted
        value.mul_(2)  # gradgate: ignore[inplace-on-saved-tensor] -- the fault is asked for, to read the message
        try:
            torch.autograd.backward(value)
        except RuntimeError as error:
            text = str(error)
            return "of Exp," in text, text.partition("instead.")[2]
    return False, ""


def mismatch_text(tensor: Tensor, version: int, output_of: str) -> str:
    """PyTorch's own words for a saved tensor whose version moved.

    Args:
        tensor: as it is now.
        version: its version when it was saved.
        output_of: as `kept_as` gave it.
    """
    short, hint = mismatch_words()
    if tensor.grad_fn is not None:
        output_of = f", which is output {tensor.output_nr} of {tensor.grad_fn.name()},"
    if short:
        output_of = re.sub(r"Backward\d*,$", ",", output_of)
    if torch.is_anomaly_enabled():
        hint = _ANOMALY_HINT
    return (
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"[{tensor.type()} {list(tensor.shape)}]{output_of} is at version {tensor._version}; "
        f"expected version {version} instead.{hint}"
    )


def kept_as(tensor: Tensor, seq: int) -> tuple[Tensor, str]:
    """What a pack hook may keep of a tensor, and how PyTorch words whose output it is.

    Args:
        tensor: that a node saves.
        seq: the node's number.

    Returns:
        An output of the node itself is detached: kept as it is, it would tie the graph into a knot.
    """
    grad_fn = tensor.grad_fn
    if grad_fn is None or not is_output(grad_fn, seq):
        return tensor, ""
    with torch._C._DisableTorchDispatch():
        return tensor.detach(), f", which is output {tensor.output_nr} of {grad_fn.name()},"


def is_output(grad_fn: Any, seq: int) -> bool:
    """Whether a tensor is an output of the very node that saves it.

    Args:
        grad_fn: of the tensor.
        seq: the number of the node that saves it.
    """
    return bool(grad_fn._sequence_nr() == seq) or isinstance(grad_fn, BackwardCFunction)


class Saved:
    """One tensor that a node saved. It lives as long as the graph needs it, and no longer."""

    __slots__ = (
        "__weakref__", "_shelf", "key", "ordinal", "output_of", "print", "seen", "seq", "tensor", "version", "writes",
    )  # fmt: skip

    tensor: Tensor

    def __init__(
        self, shelf: Shelf, tensor: Tensor, version: int, seq: int, key: int, output_of: str, ordinal: int = -1
    ) -> None:
        self._shelf, self.version, self.seq, self.key = shelf, version, seq, key
        self.tensor = tensor
        self.output_of, self.ordinal = output_of, ordinal
        self.writes: list[Write] = []  # until one of them has moved the version
        self.print: int | None = None  # as saved, or as it was before the first write that moved no version
        self.seen: int | None = None  # as the line tracer last saw it

    def __del__(self) -> None:
        """Leave the shelf."""
        self._shelf.drop(self)

    def loud_write(self) -> Write | None:
        """The write that first moved the version; None where nobody saw one that did."""
        ends = [*(write.before for write in self.writes[1:]), self.tensor._version]
        return next((write for write, end in zip(self.writes, ends, strict=False) if end > write.before), None)

    def silent_write(self) -> Write | None:
        """The write that changed the numbers: the last where no operation was seen, else the first."""
        changing = [write for write in self.writes if write.changed]
        foreign = [write for write in changing if not write.op]
        return foreign[-1] if foreign else next(iter(changing), None)

    def is_there(self) -> bool:
        """Whether its numbers can be looked at."""
        return True

    def open(self) -> bool:
        """Whether further writes still matter."""
        return len(self.writes) < _MOST_WRITES and (not self.writes or self.tensor._version == self.version)

    def changed(self) -> bool:
        """Whether its numbers differ from the fingerprint taken."""
        return self.print is not None and fingerprint(self.tensor) != self.print

    def mismatch(self) -> str:
        """PyTorch's own words for a version that moved."""
        return mismatch_text(self.tensor, self.version, self.output_of)


_S = TypeVar("_S", bound=Saved)


class Shelf:
    """Everything that live graphs have saved, found by its storage."""

    steps_aside = True  # for torch.func

    def __init__(self, on_unpack: Callable[[Saved], None], on_exposed: Callable[[], None]) -> None:
        self.by_storage: dict[int, list[weakref.ref[Saved]]] = {}
        self._exposed: dict[int, StorageWeakRef] = {}
        self._on_unpack, self._on_exposed = on_unpack, on_exposed
        self.suspects: frozenset[int] = frozenset()  # ordinals of saved tensors to be traced line by line
        self.before_write: Callable[[list[Tensor]], None] | None = None
        self._count = 0

    def pack(self, tensor: Tensor) -> Any:
        """The pack hook."""
        if type(tensor) not in PLAIN or torch._C._are_functorch_transforms_active():
            return tensor.detach() if tensor.grad_fn is not None else tensor
        ordinal = self._count
        self._count += 1
        seq = _sequence() - 1
        kept, output_of = kept_as(tensor, seq)
        try:
            storage = _storage_of(tensor)
        except (NotImplementedError, RuntimeError):  # sparse and opaque tensors have none
            return Saved(self, kept, tensor._version, seq, NO_STORAGE, output_of)
        key = storage._cdata
        saved = self.put(Saved(self, kept, tensor._version, seq, key, output_of, ordinal))
        foreign = not storage.resizable() and not (tensor.is_leaf and tensor.requires_grad)
        if foreign or ordinal in self.suspects or (self._exposed and key in self._exposed):
            self._take_print(saved)
            self._on_exposed()
        return saved

    def unpack(self, saved: Any) -> Tensor:
        """The unpack hook: PyTorch's own check is off under hooks, so this one makes it."""
        if isinstance(saved, Saved):
            if saved.tensor._version != saved.version or saved.print is not None:
                self._on_unpack(saved)
            return saved.tensor
        return saved  # type: ignore[no-any-return]

    def live(self, key: int) -> Iterator[Saved]:
        """Saved tensors in a storage."""
        for reference in tuple(self.by_storage.get(key, ())):
            saved = reference()
            if saved is not None and saved.is_there():
                yield saved

    def everything(self) -> list[Saved]:
        """All that is saved now, in the order of the nodes."""
        found = [saved for key in tuple(self.by_storage) for saved in self.live(key)]
        return sorted(found, key=lambda saved: saved.seq)

    def holds(self, targets: Iterable[Tensor]) -> bool:
        """Whether a live graph has saved any of these."""
        return bool(self.by_storage) and any(storage_key(target) in self.by_storage for target in targets)

    def hit(self, targets: list[Tensor], newest: float = math.inf) -> list[Saved]:
        """What a write to these tensors may damage, fingerprinted before it happens.

        Args:
            targets: what will be written.
            newest: the last node before the writing operation; its own may save what it writes: rrelu its noise.
        """
        hit = [saved for target in targets for saved in self.live(storage_key(target))] if self.by_storage else []
        hit = [saved for saved in hit if saved.seq <= newest and saved.open()]
        for saved in hit:
            if saved.print is None:
                self._take_print(saved)
        return hit

    def expose(self, tensor: Tensor) -> None:
        """The memory of a tensor was handed to something that writes without torch."""
        if type(tensor) not in PLAIN:
            return
        try:
            storage = _storage_of(tensor)
        except (NotImplementedError, RuntimeError):
            return
        self._exposed[storage._cdata] = StorageWeakRef(storage)
        found = list(self.live(storage._cdata))
        for saved in found:
            if saved.print is None:
                self._take_print(saved)
        if found:
            self._on_exposed()

    def keep(self, tensor: Tensor, seq: int) -> Saved:
        """What a custom Function keeps on its own; written, it is never checked by PyTorch."""
        with torch._C._DisableTorchDispatch():
            kept = tensor.detach() if tensor.grad_fn is not None else tensor
        return self.put(Saved(self, kept, tensor._version, seq, storage_key(tensor), ""))

    def put(self, saved: _S) -> _S:
        """Take something that is to be found by its storage, for as long as it lives."""
        self.by_storage.setdefault(saved.key, []).append(weakref.ref(saved))
        return saved

    def drop(self, saved: Saved) -> None:
        """Forget a saved tensor that the graph has released."""
        references = self.by_storage.get(saved.key)
        if references is not None:
            references[:] = [reference for reference in references if reference() not in (None, saved)]
            if not references:
                del self.by_storage[saved.key]

    def traced(self) -> list[Saved]:
        """What has a fingerprint."""
        return [saved for key in tuple(self.by_storage) for saved in self.live(key) if saved.print is not None]

    @staticmethod
    def _take_print(saved: Saved) -> None:
        saved.print = saved.seen = fingerprint(saved.tensor)


def readable(tensor: Tensor) -> Tensor | None:
    """What may be read of a tensor without running anybody's code: itself, or this process's part of a DTensor.

    A wrapper subclass has no numbers of its own: read below its dispatch it is a null pointer, read above it a
    collective that the other processes do not take part in.
    """
    if type(tensor) in PLAIN or type(tensor).__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl:
        return tensor
    local = getattr(tensor, "_local_tensor", None)
    return local if type(local) in PLAIN else None


def storage_key(tensor: Tensor) -> int:
    """The identity of a tensor's memory: views, `.data` and `detach()` share it."""
    try:
        return int(_storage_of(tensor)._cdata)
    except (NotImplementedError, RuntimeError):
        return NO_STORAGE
