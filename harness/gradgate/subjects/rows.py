"""Rows: batches that are mappings of tensors, and what checks may do with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import pad as pad_tensor

from gradgate.subjects.contract import Run, Tokens

HEADED = 3  # axes of labels [B, S, H]


class TokenRows(Run):
    """Mixin for runs whose batches are mappings with `input_ids` and `attention_mask`: rows, tokens, mask and padding.

    Put it before the run's other base: `class MyRun(TokenRows, HuggingFaceRun)`.

    Attributes:
        padding: column -> its value at padding. A column that is not named here is per row and is not padded.
    """

    padding: Mapping[str, float] = {"input_ids": 0, "attention_mask": 0, "labels": -100, "token_type_ids": 0}

    def tokens(self, batch: Any) -> Tokens:
        """`input_ids`, and where `attention_mask` is set."""
        return Tokens(batch["input_ids"], batch["attention_mask"].bool())

    def select_rows(self, batch: Any, index: Sequence[int]) -> dict[str, Any]:
        """Every tensor column at these rows; anything else as it is."""
        rows = list(index)
        return {name: value[rows] if _has_rows(value) else value for name, value in batch.items()}

    def pad(self, batch: Any, count: int) -> dict[str, Any]:
        """`count` more positions on the right of each column in `padding`, [B, S] or [B, S, ...]."""
        return {
            name: _padded(value, count, self.padding[name]) if name in self.padding else value
            for name, value in batch.items()
        }

    def crop(self, batch: Any, count: int) -> dict[str, Any]:
        """The first `count` positions; labels [B, S, H] of tokens t + k + 1 that are gone become padding."""
        return {
            name: _cropped(value, count, self.padding[name]) if name in self.padding else value
            for name, value in batch.items()
        }


def _padded(value: Tensor, count: int, filler: float) -> Tensor:
    return pad_tensor(value, (0, 0) * (value.dim() - 2) + (0, count), value=filler)


def _cropped(value: Tensor, count: int, filler: float) -> Tensor:
    kept = value[:, :count].clone()
    for head in range(kept.shape[2] if kept.dim() == HEADED else 0):
        kept[:, max(count - head - 1, 0) :, head] = filler  # its token is gone
    return kept


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0
