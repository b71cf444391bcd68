"""Rows: batches that are columns by name, and what checks may do with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_tensor

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run, Tokens

HEADED = 3  # axes of labels [B, S, H]


class TokenRows(Run):
    """Mixin for runs whose batches are mappings, dataclasses or named tuples of columns: rows, tokens, padding.

    A tuple of such batches, as of the micro-batches of one update, is read as one of all their rows, the narrower ones
    padded; rows that are picked out of it are one batch.

    Put it before the run's other base: `class MyRun(TokenRows, HuggingFaceRun)`.

    Attributes:
        ids_from: the column of tokens, [B, S].
        mask_from: that of the mask, set at real tokens.
        documents_from: that of the numbers of packed documents, where there is one.
        clean_from: that of the tokens of the data, [B, S], where those of `ids_from` are corrupted.
        padding: column -> its value at padding. Each column that is as wide as the tokens is named here, with None
            where it is so by chance; any other is per row, and is not padded.
    """

    ids_from: str = "input_ids"
    mask_from: str = "attention_mask"
    documents_from: str | None = None
    clean_from: str | None = None
    padding: Mapping[str, float | None] = {"input_ids": 0, "attention_mask": 0, "labels": -100, "token_type_ids": 0}

    def tokens(self, batch: Any) -> Tokens:
        """The ids, where the mask is set, and the documents."""
        columns = self._columns(batch)
        names = (self.documents_from, self.clean_from)
        documents, clean = (None if name is None else columns[name] for name in names)
        return Tokens(columns[self.ids_from], columns[self.mask_from].bool(), documents, clean)

    def select_rows(self, batch: Any, index: Sequence[int]) -> Any:
        """Every column at these rows: tensors, and lists with an entry a row; anything else as it is."""
        rows, columns = list(index), self._columns(batch)
        count = next((len(value) for value in columns.values() if _has_rows(value)), 0)
        picked = {name: _at(value, rows, count) for name, value in columns.items()}
        return _with(batch[0] if _is_in_parts(batch) else batch, picked)

    def pad(self, batch: Any, count: int) -> Any:
        """`count` more positions of each column in `padding`, [B, S] or [B, S, ...], where the batch has its own.

        That is the right, unless rows begin with padding and all end with a real token.
        """
        if _is_in_parts(batch):
            return tuple(self.pad(part, count) for part in batch)
        left = _begins_with_padding(_columns(batch).get(self.mask_from))
        columns = self._positions(batch)
        return _with(batch, {name: _padded(value, count, filler, left) for name, (value, filler) in columns.items()})

    def crop(self, batch: Any, count: int) -> Any:
        """The first `count` positions; labels [B, S, H] of tokens t + k + 1 that are gone become padding."""
        if _is_in_parts(batch):
            return tuple(self.crop(part, count) for part in batch)
        columns = self._positions(batch)
        return _with(batch, {name: _cropped(value, count, filler) for name, (value, filler) in columns.items()})

    def _columns(self, batch: Any) -> dict[str, Any]:
        """The columns of a batch by name; of several, one below the other."""
        if not _is_in_parts(batch):
            return _columns(batch)
        parts = [_columns(part) for part in batch]
        widest = max(len(part[self.ids_from][0]) for part in parts)
        wide = [
            _columns(self.pad(each, widest - len(part[self.ids_from][0])))
            for each, part in zip(batch, parts, strict=True)
        ]
        return {name: _joined([part[name] for part in wide]) for name in wide[0]}

    def _positions(self, batch: Any) -> dict[str, tuple[Tensor, float]]:
        """The columns with an entry a position, each with its value at padding.

        Raises:
            SubjectError: one is as wide as the tokens, and `padding` does not name it.
        """
        columns = _columns(batch)
        shape_BS = getattr(columns.get(self.ids_from), "shape", None)
        for name, value in columns.items():
            if shape_BS is not None and name not in self.padding and getattr(value, "shape", ())[:2] == shape_BS:
                raise SubjectError(
                    f"{type(self).__name__}.padding: no {name!r}, which has an entry for each of `{self.ids_from}`: "
                    "give its value at padding, or None where it has one a row"
                )
        fillers = {name: self.padding[name] for name in columns if name in self.padding}
        return {name: (columns[name], filler) for name, filler in fillers.items() if filler is not None}


def _is_in_parts(batch: Any) -> bool:
    """Whether a batch is a tuple of batches, and no named tuple of columns."""
    return isinstance(batch, tuple) and bool(batch) and not hasattr(batch, "_asdict")


def _joined(values: Sequence[Any]) -> Any:
    """A column of several batches: their rows, or the first one's value where it has none."""
    if all(_has_rows(value) for value in values):
        return torch.cat(list(values))
    are_lists = all(isinstance(value, list) for value in values)
    return [each for value in values for each in value] if are_lists else values[0]


def _columns(batch: Any) -> dict[str, Any]:
    """The columns of a batch by name."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if hasattr(batch, "_asdict"):
        return dict(batch._asdict())
    raise SubjectError(f"TokenRows: a batch is a {type(batch).__name__}, expected a mapping, dataclass or named tuple")


def _with(batch: Any, columns: Mapping[str, Any]) -> Any:
    """A batch of the same kind with other columns."""
    if isinstance(batch, Mapping):
        return {**batch, **columns}
    return batch._replace(**columns) if hasattr(batch, "_replace") else dataclasses.replace(batch, **columns)


def _at(value: Any, rows: Sequence[int], count: int) -> Any:
    """A column at some of `count` rows."""
    if isinstance(value, list) and len(value) == count:
        return [value[row] for row in rows]
    return value[rows] if _has_rows(value) else value


def _begins_with_padding(mask_BS: Any) -> bool:
    return isinstance(mask_BS, Tensor) and bool((mask_BS[:, 0] == 0).any() and (mask_BS[:, -1] != 0).all())


def _padded(value: Tensor, count: int, filler: float, left: bool) -> Tensor:
    return pad_tensor(value, (0, 0) * (value.dim() - 2) + ((count, 0) if left else (0, count)), value=filler)


def _cropped(value: Tensor, count: int, filler: float) -> Tensor:
    kept = value[:, :count].clone()
    for head in range(kept.shape[2] if kept.dim() == HEADED else 0):
        kept[:, max(count - head - 1, 0) :, head] = filler  # its token is gone
    return kept


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0
