"""GG205 on a part of a weight: a cut behind one of the layers that share it, and what only looks like one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from fixtures.check_runs import red, run_check
from gradgate import Run, Stage, Subject


class Gated(nn.Module):
    """Two layers in one weight; the gate opens, is cut off, or is shut."""

    def __init__(self, way: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.way = way
        self.embedding = nn.Embedding(16, 8, dtype=dtype)  # of which batches use half
        self.gate_up = nn.Linear(8, 16, dtype=dtype)
        self.out = nn.Linear(8, 1, dtype=dtype)
        if way == "shut":
            with torch.no_grad():
                self.gate_up.bias[:8] = -100.0

    def forward(self, token_BS: Tensor) -> Tensor:
        gate, up = self.gate_up(self.embedding(token_BS)).chunk(2, dim=-1)
        gate = torch.relu(gate) if self.way == "shut" else torch.sigmoid(gate)
        if self.way in ("cut", "faint"):
            gate = gate.detach()
        value: Tensor = self.out(gate * up * (1e-4 if self.way == "faint" else 1.0) + up)
        return value


class Training(Run):
    """Regression on tokens."""

    way: ClassVar[str]

    def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        self.model = Gated(self.way, dtype)
        self.modules, self.optimizers = {"model": self.model}, [torch.optim.SGD(self.model.parameters(), lr=0.1)]

    def batches(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randint(8, (4, 5), generator=generator)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        return {"total": (self.model(batch) - 1.0).square().mean()}

    def step(self, batch: Tensor) -> dict[str, float]:
        loss = self.losses(batch)["total"]
        self.optimizers[0].zero_grad()
        loss.backward()
        self.optimizers[0].step()
        return {"loss": loss.item()}


def subject(way: str) -> Subject:
    return Subject("gated", [Stage("train", start=type("Way", (Training,), {"way": way}))])


def test_part_of_a_weight_that_is_cut_off_is_a_wrong_gradient() -> None:
    """The parameter is alive, finite differences take the cut as meant, and half of it never learns."""
    cut = subject("cut")
    outcome = run_check("GG205", cut, cut.stages[0])

    (finding,) = outcome.findings
    assert finding.message.startswith("rows 0 to 7 of `model.gate_up.weight` get no gradient, those beside them do")
    assert outcome.measured["change_by_rows_without_gradient"] > 1e-4
    assert red(cut, cut.stages[0], ("GG100", "GG201", "GG202", "GG205", "GG208")) == ["GG205"]


def test_part_that_changes_the_loss_little_is_cut_off_all_the_same() -> None:
    """As keys at the start of a training do; the line that cuts is named."""
    faint = subject("faint")
    (finding,) = run_check("GG205", faint, faint.stages[0]).findings

    assert finding.message.startswith("rows 0 to 7 of `model.gate_up.weight` get no gradient")
    assert finding.culprit is None or finding.culprit.source == "gate = gate.detach()"


@pytest.mark.parametrize("way", ["open", "shut"])
def test_rows_that_change_nothing_are_not_cut_off(way: str) -> None:
    """Units that are off, and rows of an embedding that no token asks for."""
    clean = subject(way)
    assert red(clean, clean.stages[0], ("GG205",)) == []
