"""What a driven loop takes its batches from: a loader that is lent to it, or the one that it makes itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from itertools import count
from types import FrameType, new_class
from typing import Any
from unittest.mock import patch

from gradgate.core.errors import SubjectError


class LentLoader:
    """Asking it for a batch is a call of `ask` with the frame that wants one.

    Args:
        ask: gives the batch.
        length: what `len` says.

    Attributes:
        is_begun: whether something iterates over it.
    """

    def __init__(self, ask: Callable[[FrameType], Any], length: int) -> None:
        self.ask = ask
        self.is_begun = False
        self._length = length

    def __iter__(self) -> Iterator[Any]:
        self.is_begun = True
        return self

    def __next__(self) -> Any:
        return self.ask(sys._getframe(1))

    def __len__(self) -> int:
        return self._length


def first_call(loader: LentLoader, make: Callable[..., Any]) -> Callable[..., Any]:
    """What gives the loader at its first call, that of the training data, and then what was made before.

    A call with the same arguments gives it as well while nothing has iterated over it: the first may want its length.
    """
    known: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def lend(*args: Any, **options: Any) -> Any:
        if not known:
            known.append((args, options))
        elif loader.is_begun or not _are_same(known[0], (args, options)):
            return make(*args, **options)
        return loader

    return lend


def _are_same(one: Any, other: Any) -> bool:
    """Whether arguments are the same objects, or numbers and texts that are equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_are_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_same(value, other[key]) for key, value in one.items())
    return one is other or (isinstance(one, str | int | float) and one == other)


def first_made(kind: type[Any], is_inside: Callable[[], bool], taken: Callable[[Any], object]) -> ExitStack:
    """Hand the first instance of a class, or of one below it, that is made inside to `taken`, within the block.

    The class is what it was as soon as that instance is about to be made.

    Raises:
        SubjectError: nothing iterates over instances of it.
    """
    if not hasattr(kind, "__iter__") and not hasattr(kind, "__next__"):
        raise SubjectError(
            f"begin: {kind.__name__} has no `__iter__`: let the loop stand still where it asks it, by hand"
        )
    original, patched = kind.__init__, ExitStack()

    @wraps(original)
    def make(instance: Any, *args: Any, **options: Any) -> None:
        is_first = is_inside()
        if is_first:
            patched.close()
        original(instance, *args, **options)
        if is_first:
            taken(instance)

    patched.enter_context(patch.object(kind, "__init__", make))
    return patched


class OwnLoader:
    """A loader of the trainer's own: inside, iterating over it asks a lent one; the rest is its own, and all outside.

    Args:
        loader: gets a class of its own, below the one that it has.
        is_inside: whether it is the loop that runs.
        lent: what the loop gets its batches from.
    """

    def __init__(self, loader: Any, is_inside: Callable[[], bool], lent: LentLoader) -> None:
        self._loader = loader
        self._is_inside = is_inside
        self._first = 0
        self._epoch: int | None = None
        self._told: list[Any] = []  # samplers that the loop tells its epoch
        for sampler in (getattr(loader, name, None) for name in ("sampler", "batch_sampler")):
            self._listen(sampler)
        kind = type(loader)
        stops = self._in_place_of(kind, lent)
        own = new_class(kind.__name__, (kind,), exec_body=lambda names: names.update(stops))
        object.__setattr__(loader, "__class__", own)

    def batches(self) -> Iterator[Any]:
        """What the loader yields, epoch after epoch from that which the loop began with.

        Raises:
            SubjectError: an epoch has no batch.
        """
        for epoch in count(self._first):
            if hasattr(self._loader, "set_epoch") and self._epoch != epoch:
                self._loader.set_epoch(epoch)
            for sampler in self._told:
                sampler.set_epoch(epoch)
            number = -1
            for number, batch in enumerate(self._loader):  # noqa: B007 - whether there was one
                yield batch
            if number < 0:
                raise SubjectError(f"the loop's {type(self._loader).__name__} yields no batch in epoch {epoch}")

    def _listen(self, sampler: Any) -> None:
        """Note whether the loop tells a sampler its epoch: then it is told of those that follow as well."""
        tell = getattr(sampler, "set_epoch", None)
        if tell is None:
            return

        def set_epoch(epoch: int, *args: Any, **options: Any) -> Any:
            if self._is_inside():
                self._first = epoch
                self._told = [*(each for each in self._told if each is not sampler), sampler]
            return tell(epoch, *args, **options)

        sampler.set_epoch = set_epoch

    def epoch_size(self) -> int:
        """The samples of its dataset, where each epoch is to hold each of them once as far as it tells; 0 elsewhere."""
        dataset, sampler = (getattr(self._loader, name, None) for name in ("dataset", "sampler"))
        size = _length(dataset)
        is_part = sampler is not None and (getattr(sampler, "replacement", False) or _length(sampler) != size)
        is_batched_elsewhere = getattr(self._loader, "batch_size", 0) is None
        return 0 if is_part or is_batched_elsewhere or getattr(self._loader, "drop_last", False) else size

    def _in_place_of(self, kind: type[Any], lent: LentLoader) -> dict[str, Any]:
        """The methods that are other than the class's own inside."""

        def iterate(loader: Any) -> Iterator[Any]:
            return iter(lent) if self._is_inside() else kind.__iter__(loader)

        def following(loader: Any) -> Any:
            return lent.ask(sys._getframe(1)) if self._is_inside() else kind.__next__(loader)

        def set_epoch(loader: Any, epoch: int, *args: Any, **options: Any) -> Any:
            self._epoch = epoch
            if self._is_inside():
                self._first = epoch
            return kind.set_epoch(loader, epoch, *args, **options)

        others = {"__iter__": iterate, "__next__": following, "set_epoch": set_epoch}
        kept: dict[str, Any] = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        return kept | {"__slots__": ()} | {name: method for name, method in others.items() if hasattr(kind, name)}


def _length(sized: Any) -> int:
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return 0
