"""The rows of a batch, and what they were made of: the rows of the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gradgate.subjects.contract import Tokens

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


def documents(tokens: Tokens) -> Iterator[tuple[int, list[int]]]:
    """Each document's row and the positions of its real tokens; the whole row where rows are not packed."""
    document_BS = tokens.document_BS
    for b, valid_S in enumerate(tokens.valid_BS.tolist()):
        places: dict[int, list[int]] = {}
        for t, real in enumerate(valid_S):
            if real:
                places.setdefault(0 if document_BS is None else int(document_BS[b, t]), []).append(t)
        yield from ((b, document) for document in places.values())


def rows_of(tokens: Tokens) -> Iterator[tuple[int, Row]]:
    """Each document's row and its tokens; the whole row where rows are not packed."""
    return ((b, tuple(tokens.token_BS[b, document].tolist())) for b, document in documents(tokens))


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
