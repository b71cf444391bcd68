"""The reference reward: how well a frozen language model predicts a row."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from wmtp.data.batches import Batch
from wmtp.evaluation import evaluating
from wmtp.labels import IGNORE
from wmtp.loss import head_cross_entropy
from wmtp.model import CriticWmtp


def reference_rewards(reference: CriticWmtp, batches: Iterable[Batch], device: torch.device) -> Tensor:
    """The negative mean cross-entropy of head 0 over each row's labels; 0 for a row without any.

    Args:
        reference: put into eval mode for the while; never trained by this.
        batches: rows in their order, one document each; their labels say what counts.
        device: where the reference is.

    Returns:
        Float32[N] in nats per token, at most 0, off the graph, on the CPU.
    """
    rewards = []
    with evaluating(reference):
        for batch in (batch.to(device) for batch in batches):
            output = reference(batch.token_BS, batch.valid_BS, batch.document_BS, plain=batch.plain, with_value=False)
            label_BS1 = batch.label_BSH[:, :, :1]
            cross_entropy_B = head_cross_entropy(output.logits_BSHV[:, :, :1], label_BS1).sum((1, 2))
            rewards.append((-cross_entropy_B / (label_BS1 != IGNORE).sum((1, 2)).clamp(min=1)).float().cpu())
    return torch.cat(rewards)
