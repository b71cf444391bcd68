"""The model: a causal transformer trunk, H heads that share one unembedding, and a value head. Small on purpose.

Any causal language model of Hugging Face can stand in for the trunk (`wmtp.hf`); heads and value head stay the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

from wmtp.documents import first_real


class Output(NamedTuple):
    """One forward pass.

    Attributes:
        hidden_BSD: Float[B, S, D], the trunk's output, on the graph.
        logits_BSHV: Float[B, S, H, V], on the graph.
        value_BS: Float[B, S] in reward units, on the graph; None where nobody asked for it.
    """

    hidden_BSD: Tensor
    logits_BSHV: Tensor
    value_BS: Tensor | None


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain_D = nn.Parameter(torch.ones(width))

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Normalise the last axis."""
        return rms_norm(x_BSD, list(self.gain_D.shape), self.gain_D.to(x_BSD.dtype))


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions (Su et al. 2021, arXiv:2104.09864)."""

    def __init__(self, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BSD: Tensor, rotation: tuple[Tensor, Tensor], mask_B1SS: Tensor | None) -> Tensor:
        """Attend; without a mask the attention is plainly causal."""
        batch, length, width = x_BSD.shape
        q, k, v = self.qkv(x_BSD).view(batch, length, 3, self.attention_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(
            rotate(q, rotation),
            rotate(k, rotation),
            v,
            attn_mask=mask_B1SS,
            is_causal=mask_B1SS is None,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out_BSD: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out_BSD


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a gated MLP."""

    def __init__(self, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, attention_heads, dropout)
        self.mlp_norm = RMSNorm(width)
        self.gate_up = nn.Linear(width, 2 * 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD: Tensor, rotation: tuple[Tensor, Tensor], mask_B1SS: Tensor | None) -> Tensor:
        """Residual stream in, residual stream out."""
        x_BSD = x_BSD + self.dropout(self.attention(self.attention_norm(x_BSD), rotation, mask_B1SS))
        gate, up = self.gate_up(self.mlp_norm(x_BSD)).chunk(2, dim=-1)
        out_BSD: Tensor = x_BSD + self.dropout(self.down(silu(gate) * up))
        return out_BSD


class Trunk(nn.Module):
    """Causal transformer over token ids.

    Args:
        vocab_size: V.
        width: D.
        layers: how many blocks.
        attention_heads: A, divides D into even parts.
        dropout: of attention and of both residual branches.
        recompute: activation checkpointing: blocks keep their inputs only and are run again in backward.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int,
        layers: int,
        attention_heads: int,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size, self.width, self.recompute = vocab_size, width, recompute
        self.rotary_width = width // attention_heads
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(Block(width, attention_heads, dropout) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.apply(initialise)

    def forward(self, token_BS: Tensor, valid_BS: Tensor, document_BS: Tensor | None, plain: bool) -> Tensor:
        """Hidden states Float[B, S, D]; what stands at padding is meaningless but finite.

        Args:
            token_BS: Long[B, S].
            valid_BS: Bool[B, S], True = real token.
            document_BS: Long[B, S] or None.
            plain: the caller knows that padding is on the right only and nothing is packed; then no mask is needed,
                since no real token can see padding, and the attention kernels run at full speed.
        """
        x_BSD = self.embedding(token_BS)
        mask_B1SS = None if plain else attention_mask(valid_BS, document_BS)
        rotation = rotation_of(valid_BS, None if plain else document_BS, self.rotary_width, x_BSD.dtype)
        for block in self.blocks:
            if self.recompute and self.training and torch.is_grad_enabled():
                x_BSD = checkpoint(block, x_BSD, rotation, mask_B1SS, use_reentrant=False)
            else:
                x_BSD = block(x_BSD, rotation, mask_B1SS)
        hidden_BSD: Tensor = self.norm(x_BSD)
        return hidden_BSD


class Heads(nn.Module):
    """H prediction heads: each a residual gated layer of its own on the hidden state, then one shared unembedding.

    Args:
        width: D.
        horizon: H.
        vocab_size: V.
        tied: the embedding whose weight is the unembedding too; None: the heads have their own.
    """

    def __init__(self, width: int, horizon: int, vocab_size: int, tied: nn.Embedding | None = None) -> None:
        super().__init__()
        self.horizon = horizon
        self.project = nn.Linear(width, horizon * width, bias=False)
        self.norm = RMSNorm(width)
        self.unembedding = nn.Linear(width, vocab_size, bias=False)
        self.apply(initialise)
        if tied is not None:
            self.unembedding.weight = tied.weight

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """Logits Float[B, S, H, V], on the graph."""
        batch, length, width = hidden_BSD.shape
        own_BSHD = silu(self.project(hidden_BSD)).view(batch, length, self.horizon, width)
        logits_BSHV: Tensor = self.unembedding(self.norm(hidden_BSD.unsqueeze(2) + own_BSHD))
        return logits_BSHV


class ValueHead(nn.Module):
    """Linear(D, D/2) → ReLU → Linear(D/2, 1). Starts near 0, so that the first values hardly bias a return."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width // 2)
        self.outer = nn.Linear(width // 2, 1)
        initialise(self.outer)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """Values Float[B, S] in reward units, on the graph."""
        value_BS: Tensor = self.outer(torch.relu(self.inner(hidden_BSD))).squeeze(-1)
        return value_BS


class CriticWmtp(nn.Module):
    """Trunk, heads and value head under one forward, so that whatever wraps the model wraps the value head too.

    Args:
        trunk: gives hidden states [B, S, D].
        heads: logits from them.
        value_head: values from them.
        value_gradient_to_trunk: whether the value head may train the trunk; otherwise its input is detached.
    """

    def __init__(
        self, trunk: nn.Module, heads: Heads, value_head: ValueHead, *, value_gradient_to_trunk: bool = False
    ) -> None:
        super().__init__()
        self.trunk, self.heads, self.value_head = trunk, heads, value_head
        self.value_gradient_to_trunk = value_gradient_to_trunk

    def features(self, token_BS: Tensor, valid_BS: Tensor, document_BS: Tensor | None, plain: bool) -> Tensor:
        """The trunk's hidden states Float[B, S, D], on the graph."""
        hidden_BSD: Tensor = self.trunk(token_BS, valid_BS, document_BS, plain)
        return hidden_BSD

    def forward(
        self,
        token_BS: Tensor,
        valid_BS: Tensor,
        document_BS: Tensor | None = None,
        *,
        plain: bool = False,
        with_value: bool = True,
    ) -> Output:
        """One trunk forward, one forward of the heads and, unless `with_value` is off, one of the value head."""
        hidden_BSD = self.features(token_BS, valid_BS, document_BS, plain)
        value_BS = None
        if with_value:
            value_BS = self.value_head(hidden_BSD if self.value_gradient_to_trunk else hidden_BSD.detach())
        return Output(hidden_BSD, self.heads(hidden_BSD), value_BS)


def initialise(module: nn.Module) -> None:
    """Normal(0, 0.02) for linear layers and embeddings, as in GPT-2 (Radford et al. 2019, section 2.3)."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)


def attention_mask(valid_BS: Tensor, document_BS: Tensor | None) -> Tensor:
    """Who may look at whom: earlier real tokens of the same document, and everybody at itself.

    The diagonal keeps rows of padding from being all masked, whose softmax would be NaN.

    Returns:
        Bool[B, 1, S, S], True = may look.
    """
    length = valid_BS.shape[1]
    causal_SS = torch.ones(length, length, dtype=torch.bool, device=valid_BS.device).tril()
    mask_BSS = causal_SS & valid_BS.unsqueeze(1)
    if document_BS is not None:
        mask_BSS = mask_BSS & (document_BS.unsqueeze(1) == document_BS.unsqueeze(2))
    return (mask_BSS | torch.eye(length, dtype=torch.bool, device=valid_BS.device)).unsqueeze(1)


def rotation_of(
    valid_BS: Tensor, document_BS: Tensor | None, rotary_width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, Float[B, 1, S, width / 2] each.

    Positions count from the first real token of the row (document), so that padding in front of a row, or a document's
    place in a pack, changes nothing, bit for bit.
    """
    index_S = torch.arange(valid_BS.shape[1], device=valid_BS.device)
    position_BS = (index_S - first_real(valid_BS, document_BS)).clamp(min=0)
    exponent = torch.arange(0, rotary_width, 2, device=valid_BS.device, dtype=torch.float32) / rotary_width
    angle_B1SR = (position_BS.unsqueeze(-1) * 10000.0**-exponent).unsqueeze(1)
    return angle_B1SR.cos().to(dtype), angle_B1SR.sin().to(dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Apply the rotary rotation to Float[B, A, S, D/A]."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1).to(x.dtype)
