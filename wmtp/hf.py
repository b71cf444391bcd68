"""Hugging Face models in the places of our own: any causal language model as trunk, a sequence classifier as reward
model. Needs the extra `gradgate[hf]`; reads local folders only."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wmtp.documents import first_real
from wmtp.errors import ConfigError


class HuggingFaceTrunk(nn.Module):
    """The decoder of a causal language model behind the interface of `wmtp.model.Trunk`.

    Args:
        language_model: a `transformers` causal language model; its decoder becomes the trunk. Its unembedding stays
            behind: the heads have their own, or the embedding where `model.tie_embeddings` says so.
        recompute: activation checkpointing, by the model's own means.
    """

    def __init__(self, language_model: Any, *, recompute: bool = False) -> None:
        super().__init__()
        self.decoder: nn.Module = language_model.base_model
        self.embedding: nn.Embedding = language_model.get_input_embeddings()
        self.vocab_size: int = self.embedding.num_embeddings
        text_config = language_model.config.get_text_config()
        self.width: int = text_config.hidden_size
        self.positions: int | None = getattr(text_config, "max_position_embeddings", None)
        self.takes_positions = "position_ids" in signature(self.decoder.forward).parameters
        if recompute:
            _recompute(language_model)

    def forward(self, token_BS: Tensor, valid_BS: Tensor, document_BS: Tensor | None, plain: bool) -> Tensor:  # noqa: ARG002
        """Hidden states Float[B, S, D].

        Raises:
            ValueError: rows are packed; causal language models disagree on how to keep documents apart.
        """
        if document_BS is not None:
            raise ValueError("document_BS is given; a Hugging Face trunk does not keep documents apart, expected None")
        places = {}
        if self.takes_positions:
            index_S = torch.arange(valid_BS.shape[1], device=valid_BS.device)
            places["position_ids"] = (index_S - first_real(valid_BS)).clamp(min=0)
        output = self.decoder(input_ids=token_BS, attention_mask=valid_BS.long(), use_cache=False, **places)
        hidden_BSD: Tensor = output.last_hidden_state
        return hidden_BSD


def load_causal_trunk(folder: Path, *, recompute: bool = False) -> HuggingFaceTrunk:
    """A causal language model from a local folder as trunk, in float32.

    Raises:
        ConfigError: names `model.hf`; the folder is missing or holds no such model, or the extra is not installed.
    """
    model = _load("model.hf", folder, "AutoModelForCausalLM")
    return HuggingFaceTrunk(model, recompute=recompute)


class SequenceClassifier(nn.Module):
    """A Hugging Face sequence classifier with one output as a reward model.

    It is asked row by row, without padding: these models look for the last token that differs from a pad id, and a real
    token may equal it, or there is none.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier: nn.Module = classifier

    def forward(self, token_BS: Tensor, valid_BS: Tensor) -> Tensor:
        """Float[B] in reward units."""
        rows = (row_S[real_S].unsqueeze(0) for row_S, real_S in zip(token_BS, valid_BS, strict=True))
        return torch.cat([self.classifier(input_ids=row_1S).logits for row_1S in rows]).squeeze(-1)


def load_sequence_classifier(folder: Path, vocab_size: int) -> SequenceClassifier:
    """A sequence classifier with one output from a local folder.

    Args:
        folder: where the model lies.
        vocab_size: the tokenizer's V; the model must know as many tokens.

    Raises:
        ConfigError: names `paths.reward_model`; the folder holds no such model, or the extra is not installed.
    """
    model = _load("paths.reward_model", folder, "AutoModelForSequenceClassification")
    known = model.get_input_embeddings().num_embeddings
    if model.config.num_labels != 1:
        raise ConfigError(f"paths.reward_model: {folder} has {model.config.num_labels} outputs, expected one")
    if known < vocab_size:
        raise ConfigError(f"paths.reward_model: {folder} knows {known} tokens, data.tokenizer has {vocab_size}")
    model.config.pad_token_id = None
    return SequenceClassifier(model)


def _recompute(language_model: Any) -> None:
    """Activation checkpointing; transformers has renamed the switch in version 5."""
    enable = getattr(language_model, "activation_checkpointing_enable", None)
    try:
        if enable is None:
            language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            enable()
    except ValueError as error:
        raise ConfigError(f"recompute: this model.hf cannot: {error}") from None


def _load(key: str, folder: Path, auto_class: str) -> Any:
    if not folder.is_dir():
        raise ConfigError(f"{key}: {str(folder)!r} is no folder with a Hugging Face model")
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"{key}: needs the extra 'hf': pip install 'gradgate[hf]' ({error})") from None
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # it draws where our own report is
    try:
        return getattr(transformers, auto_class).from_pretrained(folder, local_files_only=True).float()
    except Exception as error:  # the library raises OSError, ValueError, KeyError, safetensors' errors and its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"{key}: {str(folder)!r} holds no model that loads as {auto_class}: {reason}") from None
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
