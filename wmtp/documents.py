"""Which real token comes before and after each position: the one place that knows about padding, gaps and packing.

Real tokens are what the mask says. A row's real tokens form a chain that bridges gaps; where rows are packed, each
document is a chain of its own. Everything here is integer arithmetic outside autograd, without a host read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wmtp.arguments import require_rank, require_shape


def check_mask(valid_BS: Tensor, document_BS: Tensor | None) -> Tensor:
    """The mask as booleans, its shape and that of the documents checked.

    Returns:
        Bool[B, S], True = real token.

    Raises:
        ValueError: a shape is wrong; the message names the argument.
    """
    shape = require_rank("valid_BS", valid_BS, "BS")
    if document_BS is not None:
        require_shape("document_BS", document_BS, shape, "BS")
    return valid_BS if valid_BS.dtype == torch.bool else valid_BS != 0


def next_real(valid_BS: Tensor, document_BS: Tensor | None = None) -> Tensor:
    """Index of the next real token of the row (of the document, when packed) after each position.

    Args:
        valid_BS: Bool[B, S], True = real token.
        document_BS: Long[B, S], the document of each position, any numbers; None: a row is a document.

    Returns:
        Long[B, S] in [0, S]; S where no real token follows.
    """
    if not valid_BS.shape[1]:
        return torch.zeros_like(valid_BS, dtype=torch.long)
    return _next_in_row(valid_BS) if document_BS is None else _next_in_document(valid_BS, document_BS)


def previous_real(valid_BS: Tensor, document_BS: Tensor | None = None) -> Tensor:
    """Index of the previous real token of the row (document) before each position; S where there is none.

    Args:
        valid_BS: Bool[B, S], True = real token.
        document_BS: Long[B, S] or None.

    Returns:
        Long[B, S] in [0, S].
    """
    length = valid_BS.shape[1]
    mirrored = next_real(valid_BS.flip(1), None if document_BS is None else document_BS.flip(1)).flip(1)
    return torch.where(mirrored == length, mirrored, length - 1 - mirrored)


def document_number(document_BS: Tensor) -> Tensor:
    """Documents of each row renumbered 0, 1, … in the order of their ids.

    Args:
        document_BS: Long[B, S], any numbers.

    Returns:
        Long[B, S] in [0, S).
    """
    sorted_BS, order_BS = document_BS.sort(dim=1, stable=True)
    starts_BS = torch.zeros_like(sorted_BS)
    starts_BS[:, 1:] = sorted_BS[:, 1:] != sorted_BS[:, :-1]
    return torch.zeros_like(sorted_BS).scatter(1, order_BS, starts_BS.cumsum(1))


def first_real(valid_BS: Tensor, document_BS: Tensor | None = None) -> Tensor:
    """Index of the first real token of each position's row (document); S where it has none.

    Args:
        valid_BS: Bool[B, S], True = real token.
        document_BS: Long[B, S] or None.

    Returns:
        Long[B, S] in [0, S].
    """
    length = valid_BS.shape[1]
    index_BS = _positions(valid_BS).masked_fill(~valid_BS, length)
    if document_BS is None:
        return index_BS.amin(1, keepdim=True).expand_as(index_BS)
    number_BS = document_number(document_BS)
    first_BD = torch.full_like(index_BS, length).scatter_reduce(1, number_BS, index_BS, "amin")
    return first_BD.gather(1, number_BS)


def _positions(valid_BS: Tensor) -> Tensor:
    return torch.arange(valid_BS.shape[1], device=valid_BS.device).expand(valid_BS.shape)


def _next_in_row(valid_BS: Tensor) -> Tensor:
    length = valid_BS.shape[1]
    index_BS = _positions(valid_BS).masked_fill(~valid_BS, length)
    at_or_after_BS = index_BS.flip(1).cummin(1).values.flip(1)
    return torch.nn.functional.pad(at_or_after_BS[:, 1:], (0, 1), value=length)


def _next_in_document(valid_BS: Tensor, document_BS: Tensor) -> Tensor:
    """Sorted by document, the order inside kept, the next one of the row is next unless its document differs."""
    length = valid_BS.shape[1]
    sorted_BS, order_BS = document_BS.sort(dim=1, stable=True)
    next_BS = _next_in_row(valid_BS.gather(1, order_BS))
    inside_BS = next_BS.clamp(max=length - 1)
    same_BS = (next_BS < length) & (sorted_BS.gather(1, inside_BS) == sorted_BS)
    in_row_BS = torch.where(same_BS, order_BS.gather(1, inside_BS), length)
    return torch.zeros_like(in_row_BS).scatter(1, order_BS, in_row_BS)
