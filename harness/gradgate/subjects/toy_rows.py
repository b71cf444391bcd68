"""Rows of tokens that can be learnt, right and wrong ones, for adapters of trainers that bring no small data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from gradgate.core.errors import SubjectError

FEWEST = 6  # token ids: one for padding, and enough for two ways on


class ToyRow(NamedTuple):
    """One row.

    Args:
        tokens: ids from 1; 0 is left for padding.
        reward: 1.0 for a right row, 0.0 for a wrong one.
    """

    tokens: list[int]
    reward: float


def toy_rows(
    seed: int, *, vocabulary: int = 16, rows: int = 4, shortest: int = 3, longest: int = 8
) -> Iterator[list[ToyRow]]:
    """Batches of rows without an end, the same for the same seed, to be collated by the trainer's own code.

    The ids fall into two halves. In a right row each token is the one before it plus 1, around the lower half. A wrong
    row is right up to some position behind its first and goes on so in the upper half. What comes next can be learnt,
    and what a row is worth, also from features of a trunk that has learnt nothing; right and wrong rows share their
    beginnings, where nothing tells them apart.

    Args:
        seed: of everything.
        vocabulary: V, the padding token among them.
        rows: B.
        shortest: tokens of a row at least.
        longest: and at most.

    Raises:
        SubjectError: a vocabulary or lengths that allow no such rows.
    """
    if vocabulary < FEWEST or not 2 <= shortest <= longest:
        raise SubjectError(
            f"toy_rows: vocabulary {vocabulary} (at least {FEWEST}), lengths {shortest} to {longest} (from 2)"
        )
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    half = (vocabulary - 1) // 2

    def row() -> ToyRow:
        length, first, right = draw(shortest, longest), draw(0, half - 1), bool(draw(0, 1))
        parted = length if right else draw(1, length - 1)
        tokens = [1 + (first + at) % half + half * (at >= parted) for at in range(length)]
        return ToyRow(tokens, float(right))

    while True:
        yield [row() for _ in range(rows)]
