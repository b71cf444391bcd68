"""Rule: a head that is tied to the embedding is asked for what lies below the logits, not for the weight they share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.checks.head_reach import Unreached, unreached_heads
from gradgate.subjects.contract import Context, Run, Stage

V, D, H = 5, 4, 3


class Tied(nn.Module):
    """Logits by the embedding's own weight; heads behind the first may see a hidden state without history."""

    def __init__(self, cut: tuple[int, ...], *, is_trained: bool = True) -> None:
        super().__init__()
        self.cut, self.embedding = cut, nn.Embedding(V, D)
        self.heads = nn.ModuleList(nn.Linear(D, D) for _ in range(H))
        self.embedding.requires_grad_(is_trained)

    def forward(self, token_BS: Tensor) -> Tensor:
        hidden_BSD = self.embedding(token_BS).tanh()
        seen = [hidden_BSD.detach() if k in self.cut else hidden_BSD for k in range(H)]
        return torch.stack([head(seen[k]) @ self.embedding.weight.T for k, head in enumerate(self.heads)], dim=2)


class TiedRun(Run):
    """One batch of tokens for ever."""

    logits_from = "model"

    def __init__(self, seed: int, model: nn.Module, dtype: torch.dtype) -> None:
        torch.manual_seed(seed)
        self.modules = {"model": model.to(dtype)}

    def batches(self) -> Any:
        while True:
            yield torch.arange(V).unsqueeze(0)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        total = self.modules["model"](batch).square().mean()
        return {"wmtp_loss": total, "total": total}

    def step(self, batch: Tensor) -> dict[str, float]:
        raise NotImplementedError


def found(model: nn.Module, edges: dict[str, tuple[str, ...]]) -> list[Unreached]:
    stage = Stage("tokens", lambda seed, dtype, **_: TiedRun(seed, model, dtype), objective="tokens", edges=edges)
    return unreached_heads(stage, Context(seed=0))


@pytest.mark.parametrize(
    ("cut", "heads"),
    [((), None), ((1,), (1,)), ((1, 2), (1, 2)), ((0, 1, 2), None)],  # the last is an edge that carries nothing at all
)
def test_heads_that_are_cut_off_are_found(cut: tuple[int, ...], heads: tuple[int, ...] | None) -> None:
    expected = [Unreached("wmtp_loss", "model", heads, H)] if heads else []
    assert found(Tied(cut), {"wmtp_loss": ("model",)}) == expected


def test_what_no_term_is_to_train_is_not_asked() -> None:
    assert found(Tied((1,)), {}) == []
    assert found(Tied((1,), is_trained=False), {"wmtp_loss": ("model",)}) == []
