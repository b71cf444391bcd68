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
from gradgate.watch.state import Reading, State


class Snapshot:
    """Taken at each step's start into the same buffers, or once, exactly.

    Args:
        state: what the user listed.
        exact: keep hold of the very tensors, gradients and memory, too; without it a gradient of the start comes back
            as a copy, so that the step may free it.
    """

    def __init__(self, state: State, *, exact: bool = False) -> None:
        self._state, self._exact = state, exact
        self._tensors, self._gradients, self._arguments = Copies(), Copies(), Copies()
        self._reading = Reading()
        self._owners: list[tuple[Tensor, int]] = []  # with the place of its gradient, -1 where there was none
        self._memory: list[Tensor] = []
        self._arrays: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._generators: generators.States | None = None
        self._grad_mode = True

    def take(self, arguments: Any = ()) -> None:
        """Copy everything.

        Args:
            arguments: of the step; tensors and arrays in them, and in lists, tuples and dicts inside, are copied too.

        Raises:
            Unsnapshotable: something cannot be copied; the text says what.
        """
        self._generators = None
        reading = self._reading = self._state.read()
        self._tensors.take(list(reading.tensors.values()))
        given = [value for value in _data(arguments) if id(value) not in reading.tensors]
        tensors = [value for value in given if isinstance(value, Tensor)]
        self._arguments.take(tensors)
        self._take_gradients([*reading.owners.values(), *(tensor for tensor in tensors if tensor.is_leaf)])
        self._arrays = [(value, value.copy()) for value in given if isinstance(value, np.ndarray)]
        if self._exact:
            self._memory = [tensor.detach() for tensor in self._tensors.tensors]
        self._grad_mode = torch.is_grad_enabled()
        self._generators = generators.states()

    @property
    def is_whole(self) -> bool:
        """Whether the last `take` came to its end."""
        return self._generators is not None

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors whose numbers are kept."""
        return [*self._tensors.tensors, *self._arguments.tensors]

    def restore(self) -> None:
        """Put everything back."""
        assert self._generators is not None  # noqa: S101 - the caller asks `is_whole`
        for held, entries in self._reading.dicts:
            held.clear()
            held.update(entries)
        for items, kept in self._reading.lists:
            items[:] = kept
        if self._exact:
            _same_memory(self._tensors.tensors, self._memory)
        self._tensors.put_back()
        self._arguments.put_back()
        self._put_gradients_back()
        for array, numbers in self._arrays:
            if array.flags.writeable:
                array[...] = numbers
        for setter in self._reading.setters:
            setter()
        torch.set_grad_enabled(self._grad_mode)
        generators.put_back(self._generators)

    def _take_gradients(self, owners: list[Tensor]) -> None:
        gradients: list[Tensor] = []
        self._owners = []
        for owner in owners:
            gradient = _grad_of(owner)
            self._owners.append((owner, -1 if gradient is None else len(gradients)))
            if gradient is not None:
                gradients.append(gradient)
        self._gradients.take(gradients)
        if not self._exact:
            self._gradients.tensors = []

    def _put_gradients_back(self) -> None:
        if self._exact:
            self._gradients.put_back()
        for owner, place in self._owners:
            gradient = None
            if place >= 0:
                gradient = self._gradients.tensors[place] if self._exact else self._gradients.buffers[place].clone()
            _descriptor.__set__(owner, gradient)


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
