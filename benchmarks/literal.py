"""The literal loops that the replaced trainer had: over rows and positions, on 0-dim tensors, in float32.

The oracles of the check catalogue are written the same way in float64; these are their counterparts in the trainer's
own dtype, so that the comparison is of loop against vector and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor


def head_weights(value_BS: Tensor, label_BSH: Tensor, *, discount_lambda: float, temperature: float) -> Tensor:
    """Head weights of rows without padding, position by position."""
    batch, length, horizon = label_BSH.shape
    rows = []
    for b in range(batch):
        delta_S = []
        for t in range(length):
            before = value_BS[b, t - 1] if t else torch.zeros(())
            delta_S.append(value_BS[b, t] - discount_lambda * before)
        positions = []
        for t in range(length):
            heads = [k for k in range(horizon) if t + k + 1 < length]
            weight_H = torch.zeros(horizon)
            if heads:
                score = torch.stack([delta_S[t + k + 1] / temperature for k in heads])
                weight_H = torch.cat((torch.softmax(score, 0), torch.zeros(horizon - len(heads))))
            positions.append(weight_H)
        rows.append(torch.stack(positions))
    return torch.stack(rows)


def gae_returns(reward_BS: Tensor, value_BS: Tensor, *, gamma: float, gae_lambda: float) -> Tensor:
    """GAE returns of rows without padding: the double loop, from the last position backwards."""
    batch, length = reward_BS.shape
    return_BS = torch.zeros_like(reward_BS)
    for b in range(batch):
        advantage = torch.zeros(())
        following = torch.zeros(())
        for t in reversed(range(length)):
            td_error = reward_BS[b, t] + gamma * following - value_BS[b, t]
            advantage = td_error + gamma * gae_lambda * advantage
            return_BS[b, t] = advantage + value_BS[b, t]
            following = value_BS[b, t]
    return return_BS
