"""Training steps of 15 to 35 ms on one core, with a slowdown put in: what `benchmarks.gate` copies into checkouts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

UNITS = {"transformer": 55, "lstm": 30, "conv": 30, "data": 36}  # products of 64 x 64 matrices that take 1 % of a step


class Heads(nn.Module):
    """A causal transformer with four heads."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
        self.embedding, self.trunk = nn.Embedding(256, 128), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(128, 256, bias=False) for _ in range(4))

    def forward(self, token_BS: Tensor) -> Tensor:
        hidden_BSD = self.trunk(
            self.embedding(token_BS), nn.Transformer.generate_square_subsequent_mask(128), is_causal=True
        )
        return torch.stack([head(hidden_BSD) for head in self.heads], 2)


def transformer() -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    model, token_BS, label_BSH = Heads(), torch.randint(256, (4, 128)), torch.randint(256, (4, 128, 4))
    return list(model.parameters()), lambda: F.cross_entropy(model(token_BS).flatten(0, 2), label_BSH.flatten())


def lstm() -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    model, head = nn.LSTM(64, 160, batch_first=True), nn.Linear(160, 10)
    x, y = torch.randn(24, 64, 64), torch.randint(10, (24,))
    return [*model.parameters(), *head.parameters()], lambda: F.cross_entropy(head(model(x)[0][:, -1]), y)


def conv() -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    first, second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1, stride=2)
    model = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(3456, 10))
    x, y = torch.randn(80, 3, 24, 24), torch.randint(10, (80,))
    return list(model.parameters()), lambda: F.cross_entropy(model(x), y)


def data() -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    """Python reads the batch from text at each step."""
    model, rng = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)), random.Random(0)  # noqa: S311
    lines = [",".join(str(rng.random()) for _ in range(256)) for _ in range(190)]

    def loss() -> Tensor:
        x = torch.tensor([[float(text) for text in line.split(",")] for line in lines])
        return F.cross_entropy(model(x), torch.arange(190) % 10)

    return list(model.parameters()), loss


def make(kind: str, slower: float = 0.0, sleep_s: float = 0.0) -> Callable[[], Any]:
    """A step of a kind, so many percent slower, sleeping so long."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parameters, loss_of = {"transformer": transformer, "lstm": lstm, "conv": conv, "data": data}[kind]()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    a, b, out = torch.randn(64, 64), torch.randn(64, 64), torch.empty(64, 64)

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_of()
        for _ in range(round(slower * UNITS[kind])):
            torch.mm(a, b, out=out)
        time.sleep(sleep_s)
        loss.backward()
        optimizer.step()

    return step
