"""What the value head regresses on: rewards placed on tokens, and the GAE returns computed from them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from wmtp.arguments import reduction_dtype, require_number, require_shape
from wmtp.documents import check_mask, document_number, next_real
from wmtp.errors import nearest

PLACEMENTS = ("terminal", "uniform")


@torch.no_grad()
def place_rewards(reward_B: Tensor, valid_BS: Tensor, placement: str, document_BS: Tensor | None = None) -> Tensor:
    """Turn one reward a sequence into rewards on its tokens.

    Args:
        reward_B: Float[B], the reward of each row; where rows are packed, of each of its documents, or Float[B, D] with
            the reward of document d, as `document_BS` numbers them, in column d.
        valid_BS: Bool[B, S], True = real token.
        placement: "terminal": all of it on the last real token; "uniform": a share of 1/n on each of the n real tokens.
        document_BS: Long[B, S] or None.

    Returns:
        Float[B, S] in reward units, at least float32, off the graph; 0 at padding.

    Raises:
        ValueError: shapes disagree, or the placement is unknown.
    """
    if placement not in PLACEMENTS:
        raise ValueError(
            f"placement is {placement!r}, expected one of {', '.join(PLACEMENTS)}{nearest(str(placement), PLACEMENTS)}"
        )
    valid_BS = check_mask(valid_BS, document_BS)
    reward_BS = _reward_of_position(reward_B.to(reduction_dtype(reward_B)), valid_BS, document_BS)
    if placement == "terminal":
        placed_BS = valid_BS & (next_real(valid_BS, document_BS) == valid_BS.shape[1])
        return reward_BS.masked_fill(~placed_BS, 0.0)
    return (reward_BS / _document_length(valid_BS, document_BS).clamp(min=1)).masked_fill(~valid_BS, 0.0)


@torch.no_grad()
def gae_returns(
    reward_BS: Tensor,
    value_BS: Tensor,
    valid_BS: Tensor,
    *,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    document_BS: Tensor | None = None,
) -> Tensor:
    """GAE returns: advantage + value, over the real tokens of a row (document) in order, bridging gaps.

    TD error δ_i = r_i + γ·v_{i+1} - v_i with v = 0 after the last real token, truncated or not; advantage
    A_i = δ_i + γλ·A_{i+1}. Each position knows the next real token of its chain, so the recurrence is summed by pointer
    doubling: log2(S) rounds in which every chain of length 2^i is joined to the one behind it.

    Args:
        reward_BS: Float[B, S], in reward units. What stands at padding is never read.
        value_BS: Float[B, S], same units; not differentiated.
        valid_BS: Bool[B, S], True = real token.
        gamma: γ, discount per token, in [0, 1].
        gae_lambda: λ of GAE, in [0, 1].
        document_BS: Long[B, S] or None.

    Returns:
        Float[B, S] in reward units, at least float32, off the graph; 0 at padding.

    Raises:
        ValueError: shapes disagree, or γ or λ is no number in [0, 1].

    Source: Schulman et al. 2016, arXiv:1506.02438, section 3; doubling: Hillis and Steele 1986, doi:10.1145/7902.7903.
    """
    gamma = require_number("gamma", gamma, low=0.0, high=1.0)
    gae_lambda = require_number("gae_lambda", gae_lambda, low=0.0, high=1.0)
    valid_BS = check_mask(valid_BS, document_BS)
    length = valid_BS.shape[1]
    require_shape("reward_BS", reward_BS, tuple(valid_BS.shape), "BS")
    require_shape("value_BS", value_BS, tuple(valid_BS.shape), "BS")
    dtype = reduction_dtype(reward_BS, value_BS)
    value_BS = value_BS.to(dtype).masked_fill(~valid_BS, 0.0)
    reward_BS = reward_BS.to(dtype).masked_fill(~valid_BS, 0.0)

    # Column S is the end of every chain: value and advantage 0, its own successor.
    next_BS = pad(next_real(valid_BS, document_BS), (0, 1), value=length)
    td_error_BS = reward_BS + gamma * pad(value_BS, (0, 1)).gather(1, next_BS[:, :-1]) - value_BS
    advantage_BS = pad(td_error_BS.masked_fill(~valid_BS, 0.0), (0, 1))
    factor, reach = gamma * gae_lambda, 1
    while reach < length and factor > 0.0:
        advantage_BS = torch.add(advantage_BS, advantage_BS.gather(1, next_BS), alpha=factor)
        next_BS = next_BS.gather(1, next_BS)
        factor, reach = factor * factor, 2 * reach
    return (advantage_BS[:, :-1] + value_BS).masked_fill(~valid_BS, 0.0)


def _reward_of_position(reward_B: Tensor, valid_BS: Tensor, document_BS: Tensor | None) -> Tensor:
    batch, length = valid_BS.shape
    if reward_B.dim() == 2 and document_BS is not None and reward_B.shape[0] == batch:
        documents = reward_B.shape[1]
        if bool((((document_BS < 0) | (document_BS >= documents)) & valid_BS).any()):
            raise ValueError(
                f"reward_B has {documents} documents a row; document_BS names one outside [0, {documents})"
            )
        return reward_B.gather(1, document_BS.clamp(0, documents - 1))
    require_shape("reward_B", reward_B, (batch,), "B")
    return reward_B.unsqueeze(1).expand(batch, length)


def _document_length(valid_BS: Tensor, document_BS: Tensor | None) -> Tensor:
    """How many real tokens the row (document) of each position has: Long[B, S] or [B, 1]."""
    if document_BS is None:
        return valid_BS.sum(1, keepdim=True)
    number_BS = document_number(document_BS)
    return torch.zeros_like(number_BS).scatter_add(1, number_BS, valid_BS.long()).gather(1, number_BS)
