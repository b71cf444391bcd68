"""The reward model: a trunk with one number read at the last real token. Ours, or a Hugging Face classifier."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wmtp import checkpoint
from wmtp.data.batches import Batch
from wmtp.errors import CheckpointError, ConfigError
from wmtp.evaluation import evaluating
from wmtp.model import Trunk

KIND = "reward model"


class Scores(Protocol):
    """A module that gives each row of a batch one number."""

    def __call__(self, token_BS: Tensor, valid_BS: Tensor) -> Tensor:
        """Float[B] in reward units."""


class RewardModel(nn.Module):
    """Our own reward model.

    Args:
        vocab_size: V.
        shape: `Trunk`'s width, layers, attention_heads and dropout.
    """

    def __init__(self, vocab_size: int, **shape: Any) -> None:
        super().__init__()
        self.shape = {"vocab_size": vocab_size, **shape}
        self.trunk = Trunk(vocab_size, **shape)
        self.score = nn.Linear(self.trunk.width, 1)

    def forward(self, token_BS: Tensor, valid_BS: Tensor) -> Tensor:
        """Float[B] in reward units, read at the last real token of each row, wherever the padding is."""
        hidden_BSD = self.trunk(token_BS, valid_BS, None, False)
        index_S = torch.arange(valid_BS.shape[1], device=valid_BS.device)
        last_B = (valid_BS * index_S).amax(1)
        last_BD = hidden_BSD.gather(1, last_B[:, None, None].expand(-1, 1, hidden_BSD.shape[2])).squeeze(1)
        reward_B: Tensor = self.score(last_BD).squeeze(-1)
        return reward_B


def save_reward_model(path: Path, model: RewardModel) -> None:
    """Write a reward model so that `critic.reward: model` can load it."""
    checkpoint.save(path, {"kind": KIND, "shape": model.shape, "model": model.state_dict()})


def load_reward_model(path: Path, vocab_size: int) -> nn.Module:
    """A reward model from our own file or from the folder of a Hugging Face sequence classifier with one output.

    Args:
        path: the file or folder.
        vocab_size: the tokenizer's V; the model must know as many tokens.

    Raises:
        CheckpointError: the file is no reward model, is damaged, or knows another vocabulary.
        ConfigError: the folder holds no such classifier, or the extra `hf` is missing.
    """
    if path.is_dir():
        from wmtp.hf import load_sequence_classifier

        return load_sequence_classifier(path, vocab_size)
    state = checkpoint.load(path)
    checkpoint.require_kind(path, state, KIND, ("shape", "model"))
    try:
        model = RewardModel(**state["shape"])
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: its shape builds no reward model: {error}") from None
    if model.trunk.vocab_size != vocab_size:
        raise ConfigError(
            f"paths.reward_model: {path} knows {model.trunk.vocab_size} tokens, data.tokenizer has {vocab_size}"
        )
    checkpoint.load_module(model, state["model"], path, "reward model")
    return model


def model_rewards(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> Tensor:
    """The reward of each row, the model in eval mode.

    Args:
        model: a module that follows `Scores`.
        batches: rows in their order, one document each.
        device: where to compute.

    Returns:
        Float32[N] in reward units, off the graph, on the CPU.
    """
    model.to(device)
    with evaluating(model):
        rewards = [
            model(batch.token_BS, batch.valid_BS).float().cpu() for batch in (batch.to(device) for batch in batches)
        ]
    return torch.cat(rewards)
