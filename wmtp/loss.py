"""The two loss terms, each as a sum over its own positions; the divisor is the caller's: so accumulation is exact."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from wmtp.arguments import reduction_dtype, require_rank, require_shape
from wmtp.labels import IGNORE


def wmtp_loss(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
    """L_wmtp = mean over positions with at least one valid head of Σ_k w·CE.

    Args:
        logits_BSHV: Float[B, S, H, V], on the graph.
        label_BSH: Long[B, S, H], -100 = invalid.
        weight_BSH: Float[B, S, H]; on the graph where the weights are to be trained, else detached.

    Returns:
        Scalar in nats, at least float32, on the caller's graph. Exactly 0, attached and with zero gradients, where no
        position has a valid head.

    Raises:
        ValueError: shapes disagree.
    """
    cross_entropy_BSH = head_cross_entropy(logits_BSHV, label_BSH)
    return weighted_sum(cross_entropy_BSH, weight_BSH) / predicting(label_BSH).sum().clamp(min=1)


def head_cross_entropy(logits_BSHV: Tensor, label_BSH: Tensor) -> Tensor:
    """Cross-entropy of each head at each position, 0 where its label is -100.

    Args:
        logits_BSHV: Float[B, S, H, V].
        label_BSH: Long[B, S, H].

    Returns:
        Float[B, S, H] in nats, at least float32, on the caller's graph.

    Raises:
        ValueError: shapes disagree.
    """
    shape = require_rank("logits_BSHV", logits_BSHV, "BSHV")
    require_shape("label_BSH", label_BSH, shape[:3], "BSH")
    logits_NV = logits_BSHV.reshape(-1, shape[3]).to(reduction_dtype(logits_BSHV))
    return cross_entropy(logits_NV, label_BSH.reshape(-1), ignore_index=IGNORE, reduction="none").view(shape[:3])


def weighted_sum(cross_entropy_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
    """Σ w·CE over everything: the numerator of L_wmtp.

    Args:
        cross_entropy_BSH: Float[B, S, H] in nats.
        weight_BSH: Float[B, S, H].

    Returns:
        Scalar in nats, on the caller's graph.

    Raises:
        ValueError: shapes disagree.
    """
    require_shape("weight_BSH", weight_BSH, tuple(cross_entropy_BSH.shape), "BSH")
    return (weight_BSH * cross_entropy_BSH).sum()


def predicting(label_BSH: Tensor) -> Tensor:
    """Bool[B, S]: which positions have at least one valid head, the denominator of L_wmtp."""
    return (label_BSH != IGNORE).any(-1)


def squared_error_sum(value_BS: Tensor, return_BS: Tensor, valid_BS: Tensor) -> Tensor:
    """Σ (v - return)² over the real tokens: the numerator of the value loss, without a factor of ½.

    Args:
        value_BS: Float[B, S] in reward units, on the graph.
        return_BS: Float[B, S], same units, off the graph.
        valid_BS: Bool[B, S].

    Returns:
        Scalar in squared reward units, at least float32, on the caller's graph; 0 and attached without a real token.

    Raises:
        ValueError: shapes disagree.
    """
    require_shape("return_BS", return_BS, tuple(value_BS.shape), "BS")
    require_shape("valid_BS", valid_BS, tuple(value_BS.shape), "BS")
    error_BS = value_BS.to(reduction_dtype(value_BS, return_BS)) - return_BS
    return error_BS.masked_fill(~valid_BS, 0.0).square().sum()
