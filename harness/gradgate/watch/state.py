"""The state of a training step: what it may change, listed by the user, read piece by piece."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from gradgate.core.errors import GradgateError
from gradgate.watch.copies import Unsnapshotable
from gradgate.watch.gradients import _grad_of

_EXPECTED = (
    "modules, optimizers, tensors, LR schedulers, a GradScaler, random generators, "
    "or objects with state_dict() and load_state_dict()"
)


@dataclass(slots=True)
class Reading:
    """What there is to put back.

    Args:
        tensors: whose numbers count.
        owners: parameters, whose `.grad` counts, too.
        moments: what optimizers keep of each parameter.
        dicts: with a copy of each.
        lists: likewise.
        setters: calls that put the rest back.
    """

    tensors: dict[int, Tensor] = field(default_factory=dict)
    owners: dict[int, Tensor] = field(default_factory=dict)
    moments: list[Tensor] = field(default_factory=list)
    dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = field(default_factory=list)
    lists: list[tuple[list[Any], list[Any]]] = field(default_factory=list)
    setters: list[Callable[[], None]] = field(default_factory=list)

    def add_owners(self, tensors: Iterable[Tensor]) -> None:
        """Tensors that may train."""
        self.owners.update({id(tensor): tensor for tensor in tensors})

    def add_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Tensors whose numbers count."""
        self.tensors.update({id(tensor): tensor for tensor in tensors})

    def add_dict(self, held: dict[Any, Any]) -> None:
        """A dict by its entries, what they are alone."""
        self.dicts.append((held, dict(held)))

    def walk(self, value: Any) -> None:
        """Tensors, dicts and lists inside a value; the rest stays as it is."""
        if isinstance(value, Tensor):
            self.tensors[id(value)] = value
        elif isinstance(value, dict):
            self.add_dict(value)
            for part in value.values():
                self.walk(part)
        elif isinstance(value, list):
            self.lists.append((value, value.copy()))
            for part in value:
                self.walk(part)
        elif isinstance(value, tuple):
            for part in value:
                self.walk(part)
        elif isinstance(value, LRScheduler):
            self.walk_attributes(value)

    def walk_attributes(self, owner: Any) -> None:
        """Everything that an object holds."""
        held = vars(owner)
        self.add_dict(held)
        for part in held.values():
            self.walk(part)


class State:
    """What a step may change.

    Args:
        entries: as the user hands them to `guard`.

    Raises:
        GradgateError: an entry is nothing that can be put back.
    """

    def __init__(self, entries: Iterable[Any]) -> None:
        self.entries = tuple(entries)
        self._readers: list[Callable[[Reading], None]] = []
        for number, entry in enumerate(self.entries):
            reader = _reader_of(entry)
            if reader is None:
                raise GradgateError(
                    f"gradgate.guard: state[{number}] is of type {type(entry).__name__}; expected {_EXPECTED}"
                )
            self._readers.append(reader)

    def read(self) -> Reading:
        """All of it, by reference.

        Raises:
            Unsnapshotable: an entry cannot be read.
        """
        reading = Reading()
        for reader in self._readers:
            reader(reading)
        return reading

    def values(self) -> dict[str, Any]:
        """Copies by name, gradients first: to tell two ends of a step apart."""
        gradients: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for name, tensor in self.parameters():
            gradient = _grad_of(tensor)
            gradients[f"{name}.grad"] = None if gradient is None else gradient.detach().clone()
        for number, entry in enumerate(self.entries):
            for name, value in _named_values(entry):
                rest[f"state[{number}]{name}"] = value.detach().clone() if isinstance(value, Tensor) else value
        return {**gradients, **rest}

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """What may hold a gradient, each once, by its first name."""
        seen: set[int] = set()
        for number, entry in enumerate(self.entries):
            for name, tensor in _parameters(entry):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"state[{number}]{name}", tensor


def _reader_of(entry: Any) -> Callable[[Reading], None] | None:
    """How an entry is read; None where it is of no known type."""
    if isinstance(entry, nn.Module):
        return _ModuleReader(entry)
    if isinstance(entry, torch.optim.Optimizer):
        return _OptimizerReader(entry)
    for kind, reader in _READERS:
        if isinstance(entry, kind):
            return lambda reading: reader(reading, entry)
    if not isinstance(entry, type) and hasattr(entry, "state_dict") and hasattr(entry, "load_state_dict"):
        return lambda reading: _read_state_dict(reading, entry)
    return None


class _ModuleReader:
    """Parameters, buffers, `.grad` and plain attributes of a module and those inside it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._own: list[dict[str, Any]] = []
        self._inside: list[dict[str, Any]] = []
        self._parameters: list[dict[str, Any]] = []
        self._buffers: list[dict[str, Any]] = []
        self._children: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def __call__(self, reading: Reading) -> None:
        """Read it; the list of modules inside is made again only where one of them has other children."""
        if not self._own or any(children != known for children, known in self._children):
            self._list()
        dicts = reading.dicts
        for held in self._own:
            dicts.append((held, held.copy()))
        for held in self._inside:
            if held:
                dicts.append((held, held.copy()))
        reading.add_owners([one for held in self._parameters for one in held.values() if one is not None])
        reading.add_tensors([one for held in self._buffers for one in held.values() if one is not None])

    def _list(self) -> None:
        self._own = [vars(module) for module in self._module.modules()]
        self._parameters = [own["_parameters"] for own in self._own]
        self._buffers = [own["_buffers"] for own in self._own]
        children = [own["_modules"] for own in self._own]
        self._inside = [*self._parameters, *self._buffers, *children]
        self._children = [(held, held.copy()) for held in children]


class _OptimizerReader:
    """Groups, parameters with `.grad`, and the state of each parameter."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._values: list[Any] = []
        self._read = Reading()  # the state of the parameters, while it consists of the same objects

    def __call__(self, reading: Reading) -> None:
        """Read it."""
        groups, state = self._optimizer.param_groups, self._optimizer.state
        reading.lists.append((groups, groups.copy()))
        for group in groups:
            reading.add_dict(group)
            reading.add_owners(group["params"])
            reading.add_tensors([value for value in group.values() if isinstance(value, Tensor)])
        reading.add_dict(state)
        values = [value for held in state.values() for value in held.values()]
        if len(values) != len(self._values) or not all(map(is_, values, self._values)):
            self._values, self._read = values, Reading()
            for held in state.values():
                self._read.walk(held)
        if any(type(value) is not Tensor for value in values):  # numbers and lists change inside
            self._values = []
        reading.dicts += self._read.dicts
        reading.lists += self._read.lists
        reading.moments += self._read.tensors.values()


def _read_tensor(reading: Reading, tensor: Tensor) -> None:
    reading.add_owners([tensor])


def _read_attributes(reading: Reading, owner: Any) -> None:
    reading.walk_attributes(owner)


def _read_generator(reading: Reading, generator: torch.Generator) -> None:
    state = generator.get_state()
    reading.setters.append(lambda: _ignore(generator.set_state(state)))


def _read_numpy_generator(reading: Reading, generator: np.random.Generator) -> None:
    state = generator.bit_generator.state
    reading.setters.append(lambda: setattr(generator.bit_generator, "state", state))


def _read_random(reading: Reading, generator: random.Random) -> None:
    state = generator.getstate()
    reading.setters.append(lambda: generator.setstate(state))


def _read_state_dict(reading: Reading, entry: Any) -> None:
    try:
        state = copy.deepcopy(entry.state_dict())
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Unsnapshotable(f"state_dict() of {type(entry).__name__} cannot be copied ({what})") from error
    reading.setters.append(lambda: _ignore(entry.load_state_dict(copy.deepcopy(state))))


def _ignore(_: Any) -> None:
    return


_READERS: tuple[tuple[Any, Callable[[Reading, Any], None]], ...] = (
    (Tensor, _read_tensor),
    (LRScheduler, _read_attributes),
    (torch.amp.GradScaler, _read_attributes),
    (torch.Generator, _read_generator),
    (np.random.Generator, _read_numpy_generator),
    (random.Random, _read_random),
)


# --- names ------------------------------------------------------------------------------------------------------------


def _parameters(entry: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(entry, nn.Module):
        yield from ((f".{name}", parameter) for name, parameter in entry.named_parameters())
    elif isinstance(entry, torch.optim.Optimizer):
        for g, group in enumerate(entry.param_groups):
            yield from ((f".param_groups[{g}][{p}]", parameter) for p, parameter in enumerate(group["params"]))
    elif isinstance(entry, Tensor) and entry.is_leaf:
        yield "", entry


def _named_values(entry: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(entry, nn.Module):
        yield from ((f".{name}", value) for name, value in entry.named_parameters())
        yield from ((f".{name}", value) for name, value in entry.named_buffers())
    elif isinstance(entry, torch.optim.Optimizer):
        names = {id(parameter): name for name, parameter in _parameters(entry)}
        for g, group in enumerate(entry.param_groups):
            for p, parameter in enumerate(group["params"]):
                yield f".param_groups[{g}][{p}]", parameter
            yield from leaves_of(f".param_groups[{g}]", {key: held for key, held in group.items() if key != "params"})
        for parameter, held in entry.state.items():
            yield from leaves_of(f".state[{names.get(id(parameter), parameter)}]", held)
    elif isinstance(entry, Tensor):
        yield "", entry
    elif isinstance(entry, LRScheduler | torch.amp.GradScaler):
        yield from leaves_of("", vars(entry))
    elif isinstance(entry, torch.Generator):
        yield "", entry.get_state()
    elif hasattr(entry, "state_dict"):
        yield from leaves_of("", entry.state_dict())


def leaves_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Tensors and plain values in dicts, lists and tuples, with names: `returned['loss']`, `state[0].lr`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves_of(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves_of(f"{name}[{i}]", item)
    elif isinstance(value, Tensor | int | float | complex | str | None):
        yield name, value
