"""Steps that the suite times: functions without arguments that build one and return it, as a fresh process wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import wmtp

B, S, H, V = 8, 256, 4, 256
Step = Callable[[], Any]


def _rows() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    valid_BS = torch.arange(S) < torch.randint(S // 2, S + 1, (B, 1))
    token_BS = torch.randint(V, (B, S))
    return token_BS, valid_BS, wmtp.make_labels(token_BS, valid_BS, H)


def labels() -> Step:
    """Labels of every head."""
    token_BS, valid_BS, _ = _rows()
    return lambda: wmtp.make_labels(token_BS, valid_BS, H)


def weights() -> Step:
    """Head weights."""
    _, valid_BS, label_BSH = _rows()
    value_BS = torch.randn(B, S)
    return lambda: wmtp.head_weights(value_BS, label_BSH, valid_BS)


def loss() -> Step:
    """The weighted loss, forward and backward."""
    _, valid_BS, label_BSH = _rows()
    logits_BSHV = torch.randn(B, S, H, V, requires_grad=True)
    weight_BSH = wmtp.head_weights(torch.randn(B, S), label_BSH, valid_BS)

    def step() -> None:
        logits_BSHV.grad = None
        wmtp.wmtp_loss(logits_BSHV, label_BSH, weight_BSH).backward()

    return step


def returns() -> Step:
    """Generalised advantage estimates."""
    _, valid_BS, _ = _rows()
    reward_BS = wmtp.place_rewards(torch.rand(B), valid_BS, "terminal")
    value_BS = torch.randn(B, S)
    return lambda: wmtp.gae_returns(reward_BS, value_BS, valid_BS)


def stage2() -> Step:
    """A whole step of the main training."""
    from gradgate_wmtp import subject

    run = subject().stages[1].start(0)
    batch = next(run.batches())
    return lambda: run.step(batch)
