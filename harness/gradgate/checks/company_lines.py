"""Which own operation gives a row other numbers in other company: in another batch, or beside more padding.

The same rows are computed twice, and each operation's numbers are held against each other at the rows' real tokens.
Where they part, those of the one are put into the other: the first operation with which the answer is right is the
place. One that sums over padding which is not 0 may be right, and what left it there wrong: then none is named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.traced import Done, Instead, Site, Traced
from gradgate.core.finding import Location
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Run

TRIALS = 40
SECONDS = 5.0  # of processor time, after which nothing more is tried
_CLOSE = 1e-9  # share of an operation's largest number; what is judged has its own bound
_Index = tuple[Tensor, ...]
_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Company:
    """The same rows twice.

    Args:
        plain: computes them, in a context.
        other: computes them in other company, in a context.
        rows: which of the plain rows each of the others is.
        valid_BS: real tokens of the plain ones.
        other_BS: of the others.
    """

    plain: Callable[[AbstractContextManager[Any]], Any]
    other: Callable[[AbstractContextManager[Any]], Any]
    rows: Sequence[int]
    valid_BS: Tensor
    other_BS: Tensor

    def places(self, ours: Tensor, theirs: Tensor) -> Iterator[tuple[int, _Index, int, _Index]]:
        """Of each row its number and the places of its real tokens, in both; nothing where that cannot be said."""
        sizes = self.valid_BS.shape[1], self.other_BS.shape[1]
        if (len(ours), len(theirs)) != (len(self.valid_BS), len(self.other_BS)) or ours.dim() != theirs.dim():
            return
        for number, row in enumerate(self.rows):
            real = [valid.nonzero()[:, 0] for valid in (self.valid_BS[row], self.other_BS[number])]
            index: list[tuple[Tensor, Tensor]] = []
            for here, there in zip(ours.shape[1:], theirs.shape[1:], strict=True):
                if (here, there) == sizes and len(real[0]) == len(real[1]):
                    index.append((real[0], real[1]))
                elif here == there:
                    index.append((torch.arange(here), torch.arange(there)))
                else:
                    return
            here_in, there_in = (torch.meshgrid(*side, indexing="ij") if side else () for side in _sides(index))
            yield row, here_in, number, there_in

    def by_rows(self, ours: Tensor, theirs: Tensor) -> _Pair:
        """Both with an axis for rows, where rows and positions were made one."""
        pairs = ((ours, self.valid_BS), (theirs, self.other_BS))
        if all(tensor.dim() and len(tensor) == valid.numel() for tensor, valid in pairs):
            one, other = (tensor.reshape(*valid.shape, *tensor.shape[1:]) for tensor, valid in pairs)
            return one, other
        return ours, theirs

    def are_apart(self, ours: Tensor, theirs: Tensor) -> bool:
        """Whether an operation gives these rows other numbers."""
        if not ours.dim() and not theirs.dim():
            return not _is_close(ours, theirs)
        ours, theirs = self.by_rows(ours, theirs)
        return any(
            not _is_close(ours[row][here], theirs[number][there])
            for row, here, number, there in self.places(ours, theirs)
        )

    def put(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """The one's numbers in the place of the other's."""
        if not ours.dim() and not theirs.dim():
            return ours
        found = theirs.clone()
        _, into = self.by_rows(ours, found)
        one, other = self.by_rows(ours, theirs)
        for row, here, number, there in self.places(one, other):
            into[number][there] = one[row][here]
        return found

    def sums_padding(self, done: Done) -> bool:
        """Whether an operation has one number for all positions, of which those of padding were not 0."""
        rows, positions = self.other_BS.shape
        if any(tensor.dim() > 1 and tensor.shape[:2] == (rows, positions) for tensor in done.outputs):
            return False
        for tensor in done.given.values():
            by_row = tensor.reshape(rows, positions, -1) if tensor.numel() % max(1, rows * positions) == 0 else None
            is_of_rows = tensor.dim() > 1 and tensor.shape[:2] == (rows, positions)
            is_flat = tensor.dim() > 0 and len(tensor) == rows * positions
            if by_row is not None and (is_of_rows or is_flat) and bool((by_row[~self.other_BS] != 0).any()):
                return True
        return False


def valid_of(run: Run, batch: Batch) -> Tensor | None:
    """Bool[B, S], the real tokens of a batch; None where the run does not say."""
    return run.valid(batch).cpu().bool() if "valid" in declared(run) else None


def line_of_company(source: Path | None, company: Company, is_right: Callable[[Any], bool]) -> Location | None:
    """The line at which other company begins to matter; None where none is sure.

    Args:
        source: of the subject.
        company: the rows, twice.
        is_right: whether what `other` gives is.
    """
    end = time.process_time() + SECONDS
    before, after = Traced(source), Traced(source)
    company.plain(before)
    company.other(after)
    pairs = list(zip(before.done, after.done, strict=False))
    times: dict[Site, list[tuple[Done, Done]]] = {}
    for one, other in pairs:
        if one.site != other.site:
            return None  # another way was taken
        times.setdefault(one.site, []).append((one, other))
    tried = 0
    for site, several in times.items():
        for item in range(min(len(other.outputs) for _, other in several)):
            both = [(one.outputs[item], other.outputs[item]) for one, other in several if item < len(one.outputs)]
            if not any(company.are_apart(*pair) for pair in both):
                continue
            tried += 1
            if tried > TRIALS or time.process_time() > end:
                return None
            instead = Instead(site, item, None, [company.put(*pair) for pair in both])
            if _repairs(company, Traced(source, instead), is_right):
                return None if any(company.sums_padding(done) for _, done in several) else several[0][1].place
    return None


def _repairs(company: Company, mode: Traced, is_right: Callable[[Any], bool]) -> bool:
    try:
        return is_right(company.other(mode))
    except Exception:  # what the subject makes of other numbers is its own
        return False


def _sides(index: Sequence[_Pair]) -> tuple[list[Tensor], list[Tensor]]:
    return [here for here, _ in index], [there for _, there in index]


def _is_close(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not ours.is_floating_point():
        return torch.equal(ours, theirs)
    finite = ours[ours.isfinite()].abs()
    limit = _CLOSE * float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(ours, theirs, rtol=0.0, atol=limit, equal_nan=True)
