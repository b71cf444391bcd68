"""Which own line makes a batch as it should not be.

Of a row of tokens it is the first behind which the row is there as a whole; of masks and labels the one whose place
right ones repair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.culprits import Failing, culprit
from gradgate.checks.oracle_steps import Step
from gradgate.checks.own_lines import Line, OwnLines, names_at, place, searched, value_of
from gradgate.core.finding import Location
from gradgate.subjects.contract import Batch, Run

LONGEST = 20_000  # items of a list that are looked at
DEEP = 3  # levels of lists, fields and keys
LOOKED_INTO = 2  # batches whose making is looked into
SECONDS = 8.0  # of processor time
Row = tuple[int, ...]


class RowLines(OwnLines):
    """Looks for rows in what the lines mention.

    Attributes:
        found: the first line behind which one is there; None: there was none.
    """

    within = False

    def __init__(self, source: Path | None, rows: Mapping[Row, Row]) -> None:
        super().__init__(source)
        self.rows = rows
        self.found: Line | None = None
        self._seen: dict[int, tuple[Any, int]] = {}

    def behind(self, line: Line) -> None:
        """Look at what the line mentions."""
        if self.found is None and any(self._has_one(value_of(self.frames[-1], name)) for name in names_at(line)):
            self.found = line

    def leaving(self, frame: FrameType, value: Any) -> None:
        """Look at what a function gives."""
        if self.found is None and self._has_one(value):
            self.found = (frame.f_code, frame.f_lineno)

    def _has_one(self, value: Any, depth: int = 0) -> bool:
        if isinstance(value, Tensor):
            return any(map(self._is_one, _rows_in(value)))
        if depth >= DEEP:
            return False
        return any(self._has_one(item, depth + 1) for item in self._items(value)) or _row(value) in self.rows

    def _is_one(self, padded: Row) -> bool:
        """Whether a row of a tensor is one, and not what it should be, with padding behind it."""
        return any(
            padded[: len(row)] == row and len(set(padded[len(row) :])) <= 1 and padded[: len(right)] != right
            for row, right in self.rows.items()
        )

    def _items(self, value: Any) -> Iterator[Any]:
        """The parts of a value that are new since it was last looked at."""
        if isinstance(value, list | tuple):
            held, known = self._seen.get(id(value), (None, 0))
            begin = known if held is value else 0
            self._seen[id(value)] = (value, len(value))
            yield from (item for item in value[begin:LONGEST] if not isinstance(item, int | float | str))
        elif isinstance(value, Mapping):
            yield from value.values()
        elif is_dataclass(value) and not isinstance(value, type):
            yield from (getattr(value, field.name, None) for field in fields(value))


@dataclass(frozen=True)
class Again:
    """How the same batches come once more.

    Args:
        start: starts the run.
        source: of the subject.
        seed: of the check.
    """

    start: Callable[[], Run]
    source: Path | None
    seed: int


def line_of_row(again: Again, rows: Mapping[Row, Row], batches: int) -> Location | None:
    """The line that makes one of these rows first; None where none is seen to.

    Args:
        again: how the batches come.
        rows: the tokens of each wrong row -> those that it should have.
        batches: so many hold them.
    """
    shortest = min(map(len, rows))
    lines = RowLines(again.source, {row: right for row, right in rows.items() if len(row) == shortest})

    def find() -> Location | None:
        with lines.on():
            _nth(again.start(), batches - 1)
        return place(lines.found)

    return searched(find, again.seed)


def line_of_places(
    again: Again,
    ask: Callable[[Run, Batch], Any],
    holds: Callable[[Any], bool],
    steps: Mapping[int, Sequence[Step]],
    *,
    handed: bool = False,
) -> Location | None:
    """The line whose mask, or labels, are wrong: where right ones, put in, make a batch right.

    Args:
        again: how the batches come.
        ask: what a batch is asked for.
        holds: whether the answer is right.
        steps: right masks and labels, by the number of a batch that is not.
        handed: as for `culprit`.
    """

    def find() -> Location | None:
        drawn = [(_Drawn(again, number, kept=handed), right) for number, right in islice(steps.items(), LOOKED_INTO)]
        failing = [Failing(partial(one.asked, ask), holds, right, before=one.start) for one, right in drawn]
        return culprit(failing, again.source, SECONDS, handed=handed)

    return searched(find, again.seed)


class _Drawn:
    """One batch of a run, made anew each time or kept."""

    def __init__(self, again: Again, number: int, *, kept: bool) -> None:
        self._again, self._number = again, number
        self._run = again.start()
        self._batch = _nth(self._run, number) if kept else None
        self._kept = kept

    def start(self) -> None:
        """Begin a run, where the batch is made anew."""
        if not self._kept:
            self._run = self._again.start()

    def asked(self, ask: Callable[[Run, Batch], Any]) -> Any:
        """What the batch answers."""
        return ask(self._run, self._batch if self._kept else _nth(self._run, self._number))


def _nth(run: Run, number: int) -> Batch:
    return next(islice(run.batches(), number, None))


def _row(value: Any) -> Row | None:
    """A list of whole numbers as a row."""
    if not isinstance(value, list | tuple) or not value or len(value) > LONGEST:
        return None
    return tuple(value) if all(type(item) is int for item in value) else None


def _rows_in(tensor: Tensor) -> list[Row]:
    """The rows of a tensor of tokens."""
    if tensor.dtype not in (torch.int32, torch.int64) or not 0 < tensor.dim() <= 2 or tensor.numel() > LONGEST:
        return []
    return [tuple(row) for row in tensor.reshape(-1, tensor.shape[-1]).tolist()]
