"""Every operation that the user's own lines do, with what came of it; and other numbers in the place of some.

An operation is what Python calls (`torch.softmax`, `x[:, 1:]`, `a * b`), so that one line is seen as it is written.
Asked for after a check has failed, never in a run that passes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradgate.core.finding import Location
from gradgate.core.origin import at_line, is_trainers_code
from gradgate.subjects.contract import Run

# They turn Python's numbers into tensors: what is wrong with those was made where no operation is seen.
_FROM_PYTHON = frozenset({"tensor", "as_tensor", "from_numpy", "asarray"})
# Of a run: what they give is what the trainer is held to, and none of its faults.
_DESCRIBING = frozenset({"tokens", "valid", "supervised"})


@dataclass(frozen=True, slots=True)
class Site:
    """One operation of the source: an instruction of a function, and what it calls."""

    code: CodeType
    at: int
    name: str


@dataclass(slots=True)
class Done:
    """One time that an operation was done.

    Args:
        site: which operation.
        number: how often it had been done before.
        place: its line.
        outputs: tensors that it gave or wrote, as copies.
        given: tensors that it was given, by position or name, as copies.
        made: for each of these, the operation that made it; None: it came from outside.
        own: the tensors that it gave or wrote themselves.
        taken: those that it was given.
    """

    site: Site
    number: int
    place: Location
    outputs: tuple[Tensor, ...]
    given: Mapping[int | str, Tensor]
    made: Mapping[int | str, Site | None]
    own: tuple[Tensor, ...] = field(repr=False)
    taken: Mapping[int | str, Tensor] = field(repr=False)

    @property
    def is_from_python(self) -> bool:
        """Whether it only brings Python's numbers into a tensor."""
        return self.site.name in _FROM_PYTHON


@dataclass(frozen=True)
class Instead:
    """Other numbers for one operation.

    Args:
        site: which operation.
        item: which of its outputs, where `argument` is None.
        argument: which of what it is given.
        numbers: for each time that it is done, what to take; None: as it is.
    """

    site: Site
    item: int
    argument: int | str | None
    numbers: Sequence[Tensor | None]


class Traced(TorchFunctionMode):
    """Keeps what each operation of own code does, or puts other numbers in its place.

    Args:
        source: the subject's own folder.
        instead: other numbers for one operation; nothing is kept then.
        asked: called with the frames of that operation, the innermost own one first, the tensor that it is given, and
            a function that says whether a tensor is `extra` or made of it.
        extra: a tensor whose offspring is to be known.

    Attributes:
        done: in order.
    """

    def __init__(
        self,
        source: Path | None,
        instead: Instead | None = None,
        asked: Callable[[Sequence[FrameType], Any, Callable[[Any], bool]], None] | None = None,
        extra: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.done: list[Done] = []
        self._source, self._instead, self._asked = source, instead, asked
        self._count: Counter[Site] = Counter()
        self._maker: dict[int, Site] = {}
        self._base: FrameType | None = None
        self._offspring: dict[int, Tensor] = {} if extra is None else {id(extra): extra}

    def __enter__(self) -> Self:
        self._base = sys._getframe(1)
        super().__enter__()
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation; keep it, or change it, where a line of own code asked for it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        frames = () if name == "__get__" else tuple(self._frames(sys._getframe(1)))
        if not frames:
            return func(*args, **kwargs)
        site = Site(frames[0].f_code, frames[0].f_lasti, name)
        number = self._count[site]
        self._count[site] += 1
        if self._instead is not None:
            return self._changed(site, number, frames, func, args, kwargs)
        given = _tensors(_by_place(args, kwargs))
        made = {key: self._maker.get(id(tensor)) for key, tensor in given.items()}
        before = {key: tensor.detach().clone() for key, tensor in given.items()}
        result = func(*args, **kwargs)
        own = _outputs(name, result, args)
        if own:
            place = at_line(frames[0].f_code, frames[0].f_lineno)
            copies = tuple(tensor.detach().clone() for tensor in own)
            self.done.append(Done(site, number, place, copies, before, made, own, given))
            given_on = () if _writes(name, args) else given.values()  # `x.to(x.dtype)` makes nothing
            self._maker |= {id(tensor): site for tensor in own if not any(tensor is held for held in given_on)}
        else:
            self._count[site] -= 1
        return result

    def _changed(self, site: Site, number: int, frames: Sequence[FrameType], func: Any, args: Any, kwargs: Any) -> Any:
        instead = self._instead
        assert instead is not None  # noqa: S101 - for the type checker
        ours = site == instead.site
        other = instead.numbers[number] if ours and number < len(instead.numbers) else None
        key = instead.argument
        held = _by_place(args, kwargs) if ours else {}
        if ours and self._asked is not None:
            self._asked(frames, held.get(key) if key is not None else None, lambda one: id(one) in self._offspring)
        if other is not None and key is not None:
            fitted = _fitted(other, held[key])
            if isinstance(key, int):
                args = (*args[:key], fitted, *args[key + 1 :])
            else:
                kwargs = {**kwargs, key: fitted}
        result = func(*args, **kwargs)
        own = _outputs(site.name, result, args)
        if not own:
            self._count[site] -= 1
        if any(id(held) in self._offspring for held in (*args, *kwargs.values())):
            self._offspring |= {id(tensor): tensor for tensor in own}
        if other is None or key is not None:
            return result
        return _replaced(site.name, result, args, instead.item, other)

    def _frames(self, frame: FrameType | None) -> list[FrameType]:
        """The trainer's own frames, innermost first; none where an adapter says what a batch is."""
        own = []
        while frame is not None and frame is not self._base:
            if is_trainers_code(frame.f_code.co_filename, self._source):
                own.append(frame)
            if frame.f_code.co_name in _DESCRIBING and isinstance(frame.f_locals.get("self"), Run):
                return []
            frame = frame.f_back
        return own


def _by_place(args: Any, kwargs: Any) -> dict[int | str, Any]:
    """Arguments by position or name."""
    return {**dict(enumerate(args)), **kwargs}


def _tensors(held: Mapping[int | str, Any]) -> dict[int | str, Tensor]:
    return {key: value for key, value in held.items() if isinstance(value, Tensor)}


def _writes(name: str, args: Sequence[Any]) -> bool:
    """Whether an operation writes what it is given first, by its name: `add_`, `x[0] = y`, `x += y`."""
    written = name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name in _INPLACE
    return written and bool(args) and isinstance(args[0], Tensor)


_INPLACE = frozenset({"__iadd__", "__isub__", "__imul__", "__itruediv__", "__iand__", "__ior__", "__ixor__"})


def _outputs(name: str, result: Any, args: Sequence[Any]) -> tuple[Tensor, ...]:
    if _writes(name, args):
        return (args[0],)
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, tuple | list):
        return tuple(item for item in result if isinstance(item, Tensor))
    return ()


def _fitted(other: Tensor, like: Tensor) -> Tensor:
    """A copy of numbers, since the program may write into it; on the graph where one is built."""
    other = other.to(like.device).clone()
    return other if torch.is_grad_enabled() else other.detach()


def _replaced(name: str, result: Any, args: Sequence[Any], item: int, other: Tensor) -> Any:
    """An operation's result with one of its tensors replaced."""
    if _writes(name, args):
        args[0].copy_(_fitted(other, args[0]))
        return result
    if isinstance(result, Tensor):
        return _fitted(other, result)
    at = [index for index, held in enumerate(result) if isinstance(held, Tensor)][item]
    held = [*result[:at], _fitted(other, result[at]), *result[at + 1 :]]
    return type(result)(held)
