"""A snapshot: the state, the arguments and the random generators at one moment, to be put back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgate import generators
from gradgate.watch.copies import Copies
from gradgate.watch.gradients import _descriptor, _grad_of
from gradgate.watch.overlap import Overlap
from gradgate.watch.state import Reading, State

# Less is copied at once: of 5 MB beside the forward of a 10 ms step, handing over cost what the copy costs.
_OVERLAPPED_BYTES = 1 << 24
_WARM = 3  # snapshots before the first overlapped one


class Snapshot:
    """The state of one moment. Taken exactly, or at each step's start into the same buffers.

    At each step's start, two things make it cheap. Gradients are kept by reference as long as no step was seen to write
    to those that it found: most clear them first. And parameters and what optimizers keep of them are copied in a
    thread while the forward runs; that ends before an optimizer writes. A parameter whose version moves earlier spoils
    the snapshot of that step, and later ones are taken at once.

    Args:
        state: what the user listed.
        exact: copy everything now, and keep hold of the memory of each tensor.
    """

    def __init__(self, state: State, *, exact: bool = False) -> None:
        self._state, self._exact = state, exact
        self._large, self._small, self._gradients = Copies(), Copies(), Copies()
        self._arrays: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._owners: list[tuple[Tensor, Tensor | None]] = []  # with its gradient
        self._versions: list[tuple[Tensor, int]] = []  # of gradients that are kept by reference
        self._reading = Reading()
        self._generators: generators.States | None = None
        self._grad_mode = True
        self._memory: list[Tensor] = []
        self._overlap = Overlap()
        self._taken = 0
        self._by_reference = self._next_by_reference = self._overlapped = False
        self._early = False  # a parameter was written before an optimizer's step

    def take(self, arguments: Any = ()) -> None:
        """Copy everything.

        Args:
            arguments: of the step; tensors and arrays in them, and in lists, tuples and dicts inside, are copied too.

        Raises:
            Unsnapshotable: something cannot be copied; the text says what.
        """
        self._overlap.join()
        self._generators = None
        reading = self._reading = self._state.read()
        self._large.prepare([*reading.owners.values(), *reading.moments])
        known = {*reading.tensors, *reading.owners}
        given = [value for value in _data(arguments) if id(value) not in known]
        tensors = [value for value in given if isinstance(value, Tensor)]
        self._small.take([*reading.tensors.values(), *tensors])
        self._arrays = [(value, value.copy()) for value in given if isinstance(value, np.ndarray)]
        self._take_gradients([*reading.owners.values(), *(tensor for tensor in tensors if tensor.is_leaf)])
        if self._exact:
            self._memory = [tensor.detach() for tensor in self.tensors]
        self._grad_mode = torch.is_grad_enabled()
        self._generators = generators.states()
        self._copy_large()
        self._taken += 1

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors whose numbers are kept."""
        return [*self._large.tensors, *self._small.tensors]

    def settle(self) -> str:
        """The step is over. Why the snapshot is spoiled; empty where it is whole."""
        self._overlap.join()
        spoiled = "a parameter was written while it was copied" if self._early and self._overlapped else ""
        kept = [gradient for _, gradient in self._owners if gradient is not None]
        moved = any(gradient._version != version for gradient, version in self._versions)
        still = any(_grad_of(owner) is gradient for owner, gradient in self._owners if gradient is not None)
        if moved and self._by_reference:
            spoiled = "the step wrote to gradients that it found"
        if kept:
            self._next_by_reference = not (moved or still)
        return spoiled

    def distrust(self) -> None:
        """A replay was not the step again: take no chances from now on."""
        self._early = True

    def release(self) -> None:
        """Let go of arguments and gradients."""
        self._small.release()
        self._arrays, self._owners, self._versions = [], [], []
        self._by_reference = self._next_by_reference

    def restore(self) -> None:
        """Put everything back."""
        assert self._generators is not None  # noqa: S101 - taken
        for held, entries in self._reading.dicts:
            held.clear()
            held.update(entries)
        for items, kept in self._reading.lists:
            items[:] = kept
        if self._exact:
            _same_memory(self.tensors, self._memory)
        self._large.put_back()
        self._small.put_back()
        self._gradients.put_back()
        for owner, gradient in self._owners:
            if _grad_of(owner) is not gradient:
                _descriptor.__set__(owner, gradient)
        for array, numbers in self._arrays:
            if array.flags.writeable:
                array[...] = numbers
        for setter in self._reading.setters:
            setter()
        torch.set_grad_enabled(self._grad_mode)
        generators.put_back(self._generators)

    def _copy_large(self) -> None:
        warm = self._taken >= _WARM and not self._exact and not self._early
        self._overlapped = warm and _host_bytes(self._large.buffers) >= _OVERLAPPED_BYTES
        if self._overlapped:
            self._overlap.start(self._copy_beside)
        else:
            self._large.copy()

    def _copy_beside(self) -> None:
        self._large.copy()
        self._early = self._early or self._large.moved()

    def _take_gradients(self, owners: list[Tensor]) -> None:
        self._owners = [(owner, _grad_of(owner)) for owner in owners]
        found = [gradient for _, gradient in self._owners if gradient is not None and gradient.layout == torch.strided]
        self._versions = [(gradient, gradient._version) for gradient in found]
        self._gradients.take([] if self._by_reference else found)


def _host_bytes(buffers: list[Tensor]) -> int:
    """Bytes on the host; on a device a copy runs beside the program anyway."""
    return sum(buffer.nbytes for buffer in buffers if buffer.device.type == "cpu")


def _same_memory(tensors: list[Tensor], memory: list[Tensor]) -> None:
    """Undo `tensor.data = other`."""
    for tensor, own in zip(tensors, memory, strict=True):
        if tensor.data_ptr() != own.data_ptr():
            tensor.data = own


def _data(value: Any) -> Iterator[Any]:
    """Tensors and arrays in arguments."""
    if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype != object):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _data(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _data(part)
