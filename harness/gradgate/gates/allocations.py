"""Allocations: every storage that operations make while one looks, until it is freed; by the line that made it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from gradgate.gates.lines import Line


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which most was alive.

    Args:
        live_bytes: alive then, of what was made since the recording began.
        by_line: by the line that made it.
        total_bytes: all that was made in the window, freed or not.
        total_by_line: by the line that made it.
        course: bytes alive at the window's begin and after each allocation and release in it.
    """

    live_bytes: int
    by_line: Mapping[Line, int]
    total_bytes: int
    total_by_line: Mapping[Line, int]
    course: Sequence[int] = ()


class _Made(NamedTuple):
    """A storage that is alive; `serial` tells it from a later one at its address."""

    watch: weakref.ref[Any]
    size: int
    line: Line
    serial: int


class Allocations:
    """Storages by their address, alive. What existed before the recording is never counted, whatever happens to it."""

    def __init__(self) -> None:
        self._alive: dict[int, _Made] = {}
        self._count = 0
        self._events: list[tuple[int, Line]] | None = None
        self._before: Counter[Line] = Counter()
        self.live_bytes = 0

    def made(self, storage: Any, line: Line) -> None:
        """Note a storage that an operation returned and was not given; one already known may have been resized."""
        address, size = storage._cdata, storage.nbytes()
        known = self._alive.get(address)
        if known is not None:
            if size != known.size:
                self._alive[address] = known._replace(size=size)
                self._moved(size - known.size, known.line)
            return
        self._count += 1
        self._alive[address] = _Made(weakref.ref(storage, lambda _: self._freed(address)), size, line, self._count)
        self._moved(size, line)

    def knows(self, storage: Any) -> bool:
        """Whether a storage was made while recording."""
        return storage._cdata in self._alive

    def identity(self, storage: Any) -> tuple[int, int]:
        """What no other storage of the recording has, though addresses are used again."""
        address = storage._cdata
        return address, self._alive[address].serial if address in self._alive else 0

    def live_by_line(self, without: Collection[int] = ()) -> Counter[Line]:
        """Bytes alive by the line that made them, less the storages at some addresses."""
        found: Counter[Line] = Counter()
        for address, made in self._alive.items():
            if address not in without:
                found[made.line] += made.size
        return found

    def addresses_of(self, line: Line) -> set[int]:
        """Addresses of the storages alive that a line made."""
        return {address for address, made in self._alive.items() if made.line == line}

    def begin(self) -> None:
        """Open a window."""
        self._events, self._before = [], self.live_by_line()

    def end(self) -> Peak:
        """Close the window: its peak and total."""
        events, self._events = self._events or [], None
        live = highest = sum(self._before.values())
        at, course = 0, [live]
        total: Counter[Line] = Counter()
        for i, (size, line) in enumerate(events, start=1):
            live += size
            course.append(live)
            if size > 0:
                total[line] += size
            if live > highest:
                highest, at = live, i
        alive = Counter(self._before)
        for size, line in events[:at]:
            alive[line] += size
        return Peak(highest, alive, sum(total.values()), total, course)

    def _freed(self, address: int) -> None:
        made = self._alive.pop(address)
        self._moved(-made.size, made.line)

    def _moved(self, size: int, line: Line) -> None:
        self.live_bytes += size
        if self._events is not None:
            self._events.append((size, line))


def storages(values: Any) -> Iterator[Any]:
    """The storages of tensors in arguments or results, lists opened; what has none (sparse, for one) is left out."""
    if isinstance(values, Tensor):
        try:
            yield values.untyped_storage()
        except (RuntimeError, NotImplementedError):
            return
    elif isinstance(values, list | tuple):
        for value in values:
            yield from storages(value)
