"""Labels: head k at position t predicts token t+k+1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from wmtp.arguments import require_horizon, require_shape
from wmtp.documents import check_mask

IGNORE = -100


def make_labels(token_BS: Tensor, valid_BS: Tensor, horizon: int, document_BS: Tensor | None = None) -> Tensor:
    """The token that each head is to predict, or -100.

    -100 stands where position t or position t+k+1 is padding (either side, or a gap), beyond the sequence, or in
    another packed document. Offsets count positions of the padded row; gaps are not closed up.

    Args:
        token_BS: Long[B, S].
        valid_BS: Bool[B, S], True = real token.
        horizon: H, the number of heads.
        document_BS: Long[B, S], the document of each position; None: a row is a document.

    Returns:
        Long[B, S, H], off the graph.

    Raises:
        ValueError: shapes disagree, or the horizon is no whole number >= 1.

    Source: Gloeckle et al. 2024, arXiv:2404.19737, section 2, with k from 0.
    """
    horizon = require_horizon(horizon)
    valid_BS = check_mask(valid_BS, document_BS)
    require_shape("token_BS", token_BS, tuple(valid_BS.shape), "BS")
    predicts_BSH = valid_BS.unsqueeze(-1) & ahead(valid_BS, horizon)
    if document_BS is not None:
        predicts_BSH = predicts_BSH & (ahead(document_BS, horizon) == document_BS.unsqueeze(-1))
    return torch.where(predicts_BSH, ahead(token_BS.long(), horizon), IGNORE)


def ahead(value_BS: Tensor, horizon: int) -> Tensor:
    """At [b, t, k] what stands at position t+k+1; zero (False) beyond the sequence.

    Args:
        value_BS: [B, S], any dtype.
        horizon: H.

    Returns:
        [B, S, H], same dtype, on the caller's graph.
    """
    return pad(value_BS, (0, horizon)).unfold(1, horizon, 1)[:, 1:]
