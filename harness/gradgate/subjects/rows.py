"""Rows: batches that are columns by name, and what checks may do with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import pad as pad_tensor

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run, Tokens

HEADED = 3  # axes of labels [B, S, H]


class TokenRows(Run):
    """Mixin for runs whose batches are mappings, dataclasses or named tuples of columns: rows, tokens, padding.

    Put it before the run's other base: `class MyRun(TokenRows, HuggingFaceRun)`.

    Attributes:
        ids_from: the column of tokens, [B, S].
        mask_from: that of the mask, set at real tokens.
        documents_from: that of the numbers of packed documents, where there is one.
        padding: column -> its value at padding. A column that is not named here is per row and is not padded.
    """

    ids_from: str = "input_ids"
    mask_from: str = "attention_mask"
    documents_from: str | None = None
    padding: Mapping[str, float] = {"input_ids": 0, "attention_mask": 0, "labels": -100, "token_type_ids": 0}

    def tokens(self, batch: Any) -> Tokens:
        """The ids, where the mask is set, and the documents."""
        columns = _columns(batch)
        documents = None if self.documents_from is None else columns[self.documents_from]
        return Tokens(columns[self.ids_from], columns[self.mask_from].bool(), documents)

    def select_rows(self, batch: Any, index: Sequence[int]) -> Any:
        """Every column at these rows: tensors, and lists with an entry a row; anything else as it is."""
        rows, columns = list(index), _columns(batch)
        count = next((len(value) for value in columns.values() if _has_rows(value)), 0)
        return _with(batch, {name: _at(value, rows, count) for name, value in columns.items()})

    def pad(self, batch: Any, count: int) -> Any:
        """`count` more positions of each column in `padding`, [B, S] or [B, S, ...], where the batch has its own.

        That is the right, unless rows begin with padding and all end with a real token.
        """
        every = _columns(batch)
        left = _begins_with_padding(every.get(self.mask_from))
        columns = {name: value for name, value in every.items() if name in self.padding}
        return _with(batch, {name: _padded(value, count, self.padding[name], left) for name, value in columns.items()})

    def crop(self, batch: Any, count: int) -> Any:
        """The first `count` positions; labels [B, S, H] of tokens t + k + 1 that are gone become padding."""
        columns = {name: value for name, value in _columns(batch).items() if name in self.padding}
        return _with(batch, {name: _cropped(value, count, self.padding[name]) for name, value in columns.items()})


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
