"""Which line made which node: the sequence numbers of autograd's nodes, with the places of their operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from gradgate.watch.places import Place

_MOST_LINES = 200_000
_sequence = torch._C._autograd._get_sequence_nr


class Lines:
    """Sequence number of a node to the line that made it."""

    def __init__(self) -> None:
        self._lines: dict[int, Place | None] = {}
        self._inner: dict[int, Place | None] = {}
        self.last = _sequence() - 1  # the newest node that is accounted for

    def note(self, place: Place | None) -> None:
        """An operation has run at a line: the newest node is its own, if it made one."""
        seq = _sequence() - 1
        if seq > self.last:
            self.last = seq
            self._lines[seq] = place
            if len(self._lines) > _MOST_LINES:
                self._forget()

    def fill(self, first: int, place: Place | None) -> None:
        """All nodes made since `first` belong to one line."""
        for seq in range(max(first, _sequence() - _MOST_LINES // 2), _sequence()):
            self._lines.setdefault(seq, place)
        self.skip()

    def skip(self) -> None:
        """Nodes were made that nobody saw."""
        self.last = _sequence() - 1

    @property
    def noted(self) -> Mapping[int, Place | None]:
        """By exact sequence number."""
        return self._lines

    def of(self, seq: int) -> Place | None:
        """The line of a node; nodes that autograd adds on its own belong to the operation before them."""
        return self._lines.get(seq) or self._lines.get(seq - 1)

    def inner(self, seq: int) -> Place | None:
        """The last line inside a custom Function's forward."""
        return self._inner.get(seq) or self.of(seq)

    def set(self, seq: int, place: Place | None) -> None:
        """Name the line of the node about to be made."""
        self._lines[seq] = place
        self.last = max(self.last, seq)

    def set_inner(self, seq: int, place: Place | None) -> None:
        """Name the last line inside a custom Function's forward."""
        self._inner[seq] = place

    def values(self) -> Iterable[Place | None]:
        """All lines noted."""
        return self._lines.values()

    def _forget(self) -> None:
        for seq in list(self._lines)[: _MOST_LINES // 2]:
            del self._lines[seq]
