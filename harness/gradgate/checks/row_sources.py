"""Rows of a batch held against the rows of the data that they were made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Row = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stray:
    """A row of a batch that is no row of the data.

    Args:
        row: b.
        at: how many tokens it begins with as the row of the data does that is most like it.
        token: what it goes on with; None where it ends there.
        source: that row of the data, cut.
    """

    row: int
    at: int
    token: int | None
    source: Row

    def __str__(self) -> str:
        """Where it leaves the data."""
        expected = self.source[self.at] if self.at < len(self.source) else None
        there, here = (("ends" if token is None else f"has {token}") for token in (expected, self.token))
        like = f"row {self.row} is like one of {len(self.source)} tokens for {self.at} of them"
        return f"{like}, then {here}, where the data {there}"


def strays(
    rows: Iterable[tuple[int, Sequence[int]]], sources: Iterable[Sequence[int]], longest: int | None
) -> Iterator[Stray]:
    """Rows that are not one of the data's, cut at the longest length.

    Args:
        rows: of a batch: the number b of each, or of each document's, and its tokens.
        sources: the data's.
        longest: tokens at which a row is cut; None: never.
    """
    whole = {tuple(map(int, source))[:longest] for source in sources}
    for b, tokens in rows:
        row = tuple(map(int, tokens))
        if whole and row not in whole:
            at, source = max((_common(row, other), other) for other in whole)
            yield Stray(b, at, row[at] if at < len(row) else None, source)


def _common(one: Row, other: Row) -> int:
    """How many tokens the two begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
