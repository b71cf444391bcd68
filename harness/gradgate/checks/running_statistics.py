"""Running statistics of the data, such as those that normalise rewards: found by asking the run, and held still."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from gradgate.checks.invariance import perturbed
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.run_parts import Part, digest, is_on_the_way, objects_of_loop, parts_of
from gradgate.checks.snapshot import named_parameters
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Run
from gradgate.subjects.keeping import numbers_left

OTHERWISE = 0.01  # share by which parameters are moved to see whether a statistic is one of theirs
HELD = "held_still"


@dataclass(frozen=True)
class Moving:
    """A number or tensor that `losses` moves.

    Args:
        name: from the run to it.
        owner: the object that has it as an attribute, or the dictionary that it is in.
        key: its name there.
        value: what it is.
        kept: a copy.
        holder: of a dictionary, the object or dictionary that has it.
    """

    name: str
    owner: Any
    key: str
    value: Any
    kept: Any
    holder: tuple[Any, str] | None = None

    def put_back(self) -> None:
        """Let it be what it was."""
        if isinstance(self.value, Tensor):
            with torch.no_grad():
                self.value.copy_(self.kept)
        if _held(self.owner, self.key) is not self.value:
            _put(self.owner, self.key, self.value)

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole number, or holds such alone."""
        value = torch.as_tensor(self.kept)
        return bool((value == value.round()).all()) if value.is_floating_point() else True

    def now(self) -> str:
        """A digest of what it is now."""
        return digest(_held(self.owner, self.key))


class Statistics:
    """Running statistics of a run.

    Args:
        parts: all numbers that move on the objects that hold them.
    """

    def __init__(self, parts: Sequence[Moving]) -> None:
        self._parts = parts

    @property
    def names(self) -> str:
        """What they are called."""
        return ", ".join(part.name for part in self._parts)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let nothing that runs in the block move them, whether it assigns them or writes into them.

        They are as they were found, behind a batch: a mean of none may be 0 by 0.
        """
        for part in self._parts:
            part.put_back()
        with ExitStack() as stack:
            for owner in {id(part.owner): part.owner for part in self._parts}.values():
                kept = {part.key for part in self._parts if part.owner is owner}
                if isinstance(owner, dict):
                    holder, name = next(part.holder for part in self._parts if part.owner is owner and part.holder)
                    standing = _Standing(owner, kept)
                    stack.callback(_put, holder, name, owner)
                    stack.callback(owner.update, standing)
                    _put(holder, name, standing)
                    continue
                stack.callback(setattr, owner, "__class__", type(owner))
                owner.__class__ = _refusing(type(owner), kept)
            tensors = [value for part in self._parts if isinstance(value := _held(part.owner, part.key), Tensor)]
            if tensors:
                stack.enter_context(_Unwritten(tensors))
            yield


def without_running_statistics(run: Run, batches: Sequence[Batch], seed: int, judge: Callable[[], Outcome]) -> Outcome:
    """What a check finds with running statistics of the data held still, where the run has some.

    A statistic that is updated by a batch before it is used makes a loss depend on all rows and on what came before.
    That is a design.

    Args:
        run: the check's.
        batches: the check's, and another.
        seed: of the random state.
        judge: the check.
    """
    with statistics_still(run, batches, seed) as names:
        outcome = judge()
    return replace(outcome, measured={**outcome.measured, HELD: names}) if names else outcome


@contextmanager
def statistics_still(run: Run, batches: Sequence[Batch], seed: int, *, all_that_moves: bool = False) -> Iterator[str]:
    """Hold a run's running statistics of the data still within the block; yields their names, empty where it has none.

    Args:
        run: any.
        batches: two different ones.
        seed: of the random state.
        all_that_moves: hold what moves otherwise at other parameters as well, such as a mean of bootstrapped returns:
            no gradient goes through it either.
    """
    with numbers_left():
        find = _all_moving if all_that_moves else running_statistics
        statistics = find(run, batches, seed) if _remembers(run, batches, seed) else None
    if statistics is None:
        yield ""
        return
    with statistics.still():
        yield statistics.names


def _remembers(run: Run, batches: Sequence[Batch], seed: int) -> bool:
    """Whether a batch has other losses behind another one."""
    if len(batches) < 2:
        return False
    first, _, again = (_ask(run, batch, seed) for batch in (*batches, batches[0]))
    return any(not torch.equal(first[name], again[name]) for name in first if name in again)


def running_statistics(run: Run, batches: Sequence[Batch], seed: int) -> Statistics | None:
    """The numbers that `losses` moves by the batch that it is given, whatever the parameters are; None: there are none.

    With them go those that the run declares, and whole numbers on the same objects that move at other parameters as
    they do at these: a mean needs its count. What moves with every batch alike (a decaying coefficient) or otherwise at
    other parameters (a norm of the loss) is none.
    """
    moving = _moved(run, batches[0], seed)
    if not moving or len(batches) < 2:
        return None
    here, there = (_behind(run, batch, seed, moving) for batch in batches[:2])
    parameters = [parameter for parameter in named_parameters(run) if parameter.requires_grad]
    elsewhere = [_behind(run, batches[0], seed, moving) for _ in perturbed(parameters, seed, OTHERWISE)]
    own = [number for number in range(len(moving)) if all(each[number] == here[number] for each in elsewhere)]
    declared = [each for each in moving if any(is_on_the_way(name, each.name) for name in run.statistics)]
    by_data = {number for number in own if here[number] != there[number]}
    owners = {id(moving[number].owner) for number in by_data if not moving[number].is_whole}
    found = [
        moving[number]
        for number in own
        if id(moving[number].owner) in owners and (number in by_data or moving[number].is_whole)
    ]
    found += [each for each in declared if each not in found]
    return Statistics(found) if found else None


def _all_moving(run: Run, batches: Sequence[Batch], seed: int) -> Statistics | None:
    moving = _moved(run, batches[0], seed)
    return Statistics(moving) if moving else None


def _moved(run: Run, batch: Batch, seed: int) -> list[Moving]:
    """What a call of `losses` moves and can be held, as it is behind that."""
    before = {name: part.digest for name, part in parts_of(run).items()}
    _ask(run, batch, seed)
    moved = [part for name, part in parts_of(run).items() if before.get(name, part.digest) != part.digest]
    return [each for part in moved if (each := _moving(part, run)) is not None]


def _moving(part: Part, run: Run) -> Moving | None:
    owner, key, value = part.owner, part.path[-1], part.value
    if isinstance(owner, nn.Module):
        prefix, _, key = key.rpartition(".")
        owner = owner.get_submodule(prefix)
    is_number = isinstance(value, int | float | Tensor) and not isinstance(value, bool | nn.Parameter)
    is_attribute = _held(owner, key) is value and not isinstance(owner, Optimizer | torch.Generator)
    holder = _holder(owner, part.path, run) if type(owner) is dict else None
    if not is_number or not is_attribute or not (holder or _can_refuse(owner)):
        return None
    kept = value.detach().clone() if isinstance(value, Tensor) else value
    return Moving(".".join(part.path), owner, key, value, kept, holder)


def _holder(owner: Any, path: Sequence[str], run: Run) -> tuple[Any, str] | None:
    """The object or dictionary that has a dictionary, and under which name; None where it is not found so."""
    for root in (run, objects_of_loop(run)):
        at: Any = root
        for name in path[:-2]:
            at = at[int(name)] if isinstance(at, list | tuple) and name.isdigit() else _held(at, name)
        if len(path) > 1 and _held(at, path[-2]) is owner:
            return at, path[-2]
    return None


def _held(owner: Any, key: str) -> Any:
    return owner.get(key) if isinstance(owner, dict) else getattr(owner, key, None)


def _put(owner: Any, key: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[key] = value
    else:
        setattr(owner, key, value)


class _Standing(dict[Any, Any]):
    """A dictionary some of whose entries stay as they are.

    Args:
        entries: all of them.
        kept: keys of those.
    """

    def __init__(self, entries: Mapping[Any, Any], kept: set[str]) -> None:
        super().__init__(entries)
        self._kept = kept

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set an entry, unless it is to stay."""
        if key not in self._kept:
            super().__setitem__(key, value)

    def update(self, *given: Any, **named: Any) -> None:
        """Set several."""
        for key, value in dict(*given, **named).items():
            self[key] = value


def _behind(run: Run, batch: Batch, seed: int, moving: Sequence[Moving]) -> list[str]:
    """What each is behind one more call; then it is what it was."""
    try:
        _ask(run, batch, seed)
        return [part.now() for part in moving]
    finally:
        for part in moving:
            part.put_back()


def _ask(run: Run, batch: Batch, seed: int) -> dict[str, Tensor]:
    with seeded(seed), calling("losses()"):
        return {name: term.detach() for name, term in run.losses(batch).items()}


def _can_refuse(owner: Any) -> bool:
    """Whether an object lets its class be one of ours for a while."""
    kind = type(owner)
    try:
        owner.__class__ = _refusing(kind, set())
        owner.__class__ = kind
    except TypeError:
        return False
    return True


def _refusing(kind: Any, kept: set[str]) -> type:
    """A class like this one whose objects do not take these attributes."""

    def set_attribute(owner: Any, name: str, value: Any) -> None:
        if name not in kept:
            kind.__setattr__(owner, name, value)

    return type(kind.__name__, (kind,), {"__setattr__": set_attribute, "__module__": kind.__module__})


class _Unwritten(TorchDispatchMode):
    """Drops what operations write into these tensors.

    Args:
        tensors: they stay as they are.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self._kept = {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, unless it writes into one of them."""
        written = args[0] if args and func._schema.is_mutable else None
        if isinstance(written, Tensor) and written.untyped_storage().data_ptr() in self._kept:
            return written
        return func(*args, **(kwargs or {}))
