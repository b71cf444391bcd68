"""Head weights: a softmax, over the heads that have something to predict, of how much the value changes there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from wmtp.arguments import reduction_dtype, require_number, require_rank, require_shape
from wmtp.documents import check_mask, previous_real
from wmtp.labels import IGNORE, ahead


def head_weights(
    value_BS: Tensor,
    label_BSH: Tensor,
    valid_BS: Tensor,
    *,
    discount_lambda: float = 0.95,
    temperature: float = 0.7,
    document_BS: Tensor | None = None,
) -> Tensor:
    """w[b,t,·] = softmax over the valid heads of δ[b,t+k+1]/τ. A head is valid iff its label is.

    An invalid head weighs exactly 0; a position with a valid head sums to 1; one without weighs 0 everywhere and sends
    no gradient. Nothing that autograd saves is written, and nothing but the exact zeros stands behind the softmax.

    Args:
        value_BS: Float[B, S], values in reward units. What stands at padding is never read.
        label_BSH: Long[B, S, H], -100 = invalid.
        valid_BS: Bool[B, S], True = real token.
        discount_lambda: λ of the delta, in [0, 1].
        temperature: τ > 0, in reward units; small sharpens.
        document_BS: Long[B, S] or None.

    Returns:
        Float[B, S, H] without unit, on the caller's graph: float32, float64 for float64.

    Raises:
        ValueError: shapes disagree, or τ or λ is out of its range (0, negative, NaN, infinite, a boolean).

    Source: Critic-WMTP, the project's own algorithm; see docs/architecture.md.
    """
    temperature = require_number("temperature", temperature, low=0.0, low_allowed=False)
    batch, length, horizon = require_rank("label_BSH", label_BSH, "BSH")
    valid_BS = check_mask(valid_BS, document_BS)
    require_shape("valid_BS", valid_BS, (batch, length), "BS")
    delta_BS = value_delta(value_BS, valid_BS, discount_lambda=discount_lambda, document_BS=document_BS)

    valid_BSH = label_BSH != IGNORE
    some_BS1 = valid_BSH.any(-1, keepdim=True)
    delta_BSH = ahead(delta_BS, horizon)
    # Shifted by the row's largest delta *before* the division, so that no temperature overflows; a softmax does not see
    # a shift, so the peak needs no gradient. A row without a valid head gets zeros instead of -inf: its softmax is then
    # finite, and so is its gradient, which the last line sets to 0.
    peak_BS1 = delta_BSH.detach().masked_fill(~valid_BSH, -torch.inf).amax(-1, keepdim=True).masked_fill(~some_BS1, 0.0)
    excluded_BS1 = torch.where(some_BS1, -torch.inf, 0.0).to(delta_BSH.dtype)
    smallest = torch.finfo(delta_BSH.dtype).tiny  # a τ below it would round to 0
    score_BSH = torch.where(valid_BSH, (delta_BSH - peak_BS1) / max(temperature, smallest), excluded_BS1)
    return torch.softmax(score_BSH, dim=-1).masked_fill(~valid_BSH, 0.0)


def value_delta(
    value_BS: Tensor, valid_BS: Tensor, *, discount_lambda: float = 0.95, document_BS: Tensor | None = None
) -> Tensor:
    """δ[b,t] = v[b,t] - λ·v[b,t-1], where t-1 means the previous real token of the row (document), 0 before the first.

    Args:
        value_BS: Float[B, S], in reward units.
        valid_BS: Bool[B, S], True = real token.
        discount_lambda: λ, in [0, 1].
        document_BS: Long[B, S] or None.

    Returns:
        Float[B, S] in reward units, on the caller's graph: float32, float64 for float64. Meaningless at padding.

    Raises:
        ValueError: shapes disagree, or λ is no number in [0, 1].
    """
    discount_lambda = require_number("discount_lambda", discount_lambda, low=0.0, high=1.0)
    valid_BS = check_mask(valid_BS, document_BS)
    require_shape("value_BS", value_BS, tuple(valid_BS.shape), "BS")
    value_BS = value_BS.to(reduction_dtype(value_BS))
    previous_BS = previous_real(valid_BS, document_BS)
    return value_BS - discount_lambda * pad(value_BS, (0, 1)).gather(1, previous_BS)


def uniform_weights(label_BSH: Tensor) -> Tensor:
    """The control group: 1 / (valid heads) on each valid head, 0 elsewhere.

    Args:
        label_BSH: Long[B, S, H], -100 = invalid.

    Returns:
        Float32[B, S, H], off the graph.
    """
    valid_BSH = (label_BSH != IGNORE).float()
    return valid_BSH / valid_BSH.sum(-1, keepdim=True).clamp(min=1.0)


def weight_entropy(weight_BSH: Tensor) -> Tensor:
    """Mean entropy of the head weights over positions that weigh anything, in nats; 0 with none.

    Args:
        weight_BSH: Float[B, S, H].

    Returns:
        Scalar, off the graph. log H where every head weighs the same, 0 where one head has it all.
    """
    weight_BSH = weight_BSH.detach()
    entropy_BS = -torch.xlogy(weight_BSH, weight_BSH).sum(-1)
    counted_BS = weight_BSH.sum(-1) > 0
    return entropy_BS.sum() / counted_BS.sum().clamp(min=1)
