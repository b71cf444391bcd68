"""GG510: values of other features than those of the stage before are told, values of the same are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradgate

CODE = "GG510"


class Net(nn.Module):
    """A trunk with a norm behind it, and a value head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.norm = nn.Embedding(7, 6), nn.Linear(6, 6), nn.LayerNorm(6)
        self.value_head, self.dropout = nn.Linear(6, 1), nn.Dropout(0.5)

    def before_norm(self, token_BS: Tensor) -> Tensor:
        """Float[B, S, 6]."""
        return self.block(self.embed(token_BS)).tanh()

    def behind_norm(self, token_BS: Tensor) -> Tensor:
        """Float[B, S, 6]."""
        return self.dropout(self.norm(self.before_norm(token_BS)))

    def first_layer(self, token_BS: Tensor) -> Tensor:
        """Float[B, S, 6], of another layer."""
        return self.dropout(self.norm(self.embed(token_BS)))

    def moved(self, token_BS: Tensor) -> Tensor:
        """Float[B, S, 6], those of the position in front."""
        return F.pad(self.behind_norm(token_BS), (0, 0, 1, -1))

    def scaled(self, token_BS: Tensor) -> Tensor:
        """Float[B, S, 6], scaled once more."""
        return self.behind_norm(token_BS) * 6**0.5


class Stage(gradgate.Run):
    """Values of hidden states that one method of the model gives."""

    named = ("embed", "block", "norm", "value_head")

    def __init__(
        self, seed: int, *, hidden: Callable[[Net, Tensor], Tensor], train: bool = True, width: int = 1, **made: Any
    ) -> None:
        torch.manual_seed(seed)
        self.net = Net().to(made.get("device", "cpu"), made.get("dtype", torch.float32)).train(train)
        self.hidden = hidden
        if width > 1:
            self.net.value_head = nn.Linear(6, width)
        self.modules = {name: getattr(self.net, name) for name in self.named}
        self.optimizers = [torch.optim.SGD(self.modules["value_head"].parameters(), 0.1)]

    def batches(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(3)
        while True:
            yield {"ids": torch.randint(1, 7, (3, 5), generator=generator)}

    def valid(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["ids"] > 0

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        value_BS = self.net.value_head(self.hidden(self.net, batch["ids"]))[..., 0]
        loss = (value_BS - 1).square().mean()
        return {"value_loss": loss, "total": loss}

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        return {"loss": self.losses(batch)["total"].item()}


class Unnamed(Stage):
    """Does not name the block that its values go through."""

    named = ("embed", "norm", "value_head")


class WithReference(Stage):
    """Asks a model of its own, which no name covers, for something beside the values."""

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        nn.Embedding(7, 6)(batch["ids"]).sum()
        return super().losses(batch)


class OtherBatches(Stage):
    """Takes tensors for batches."""

    def valid(self, batch: Any) -> Tensor:
        return batch.bool()


def result(first: Callable[..., gradgate.Run], second: Callable[..., gradgate.Run]) -> gradgate.Result:
    """Of the check, on a second stage that starts behind a first."""

    def start(before: gradgate.Run, folder: Path) -> gradgate.Run:
        torch.save(before.modules["value_head"].state_dict(), folder / "head.pt")
        run = second(7)
        if run.modules["value_head"].weight.shape == before.modules["value_head"].weight.shape:
            run.modules["value_head"].load_state_dict(torch.load(folder / "head.pt"))
        return run

    stages = [gradgate.Stage("first", first), gradgate.Stage("second", second, after=gradgate.After(first, start))]
    verdict = gradgate.check_trainer(gradgate.Subject("two", stages), select=[CODE], stages=["second"])
    [result] = verdict.results
    return result


BEHIND = partial(Stage, hidden=Net.behind_norm)


@pytest.mark.parametrize("hidden", [Net.before_norm, Net.first_layer, Net.moved, Net.scaled])
def test_values_of_other_features_fail(hidden: Callable[[Net, Tensor], Tensor]):
    """Hidden states in front of the norm, of another layer, of another position or scaled are other values."""
    failed = result(partial(Stage, hidden=hidden), BEHIND)
    assert failed.status == "failed"
    [finding] = failed.findings
    assert "`value_head` gives the same tokens other values" in finding.message
    assert finding.culprit is not None
    assert finding.culprit.function == "losses"


@pytest.mark.parametrize("first", [BEHIND, partial(Stage, hidden=Net.behind_norm, train=False)])
@pytest.mark.parametrize("second", [BEHIND, partial(WithReference, hidden=Net.behind_norm)])
def test_values_of_the_same_features_pass(first: Callable[..., gradgate.Run], second: Callable[..., gradgate.Run]):
    """Other weights at the start, dropout in one stage alone and a model beside the values are no difference."""
    passed = result(first, second)
    assert passed.status == "passed"
    assert passed.measured["distance"] <= passed.allowed["distance"]


def test_unnamed_module_on_the_way_is_inconclusive():
    """A module that no name covers may have other parameters, and is told."""
    told = result(partial(Unnamed, hidden=Net.before_norm), partial(Unnamed, hidden=Net.behind_norm))
    assert told.status == "inconclusive"
    assert "a Linear on the way to the values" in str(told)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (partial(Stage, hidden=Net.behind_norm, width=3), "`value_head` has other tensors"),
        (partial(OtherBatches, hidden=Net.behind_norm), "takes no batch of the stage before"),
    ],
)
def test_stages_that_cannot_be_compared_are_not_applicable(second: Callable[..., gradgate.Run], told: str):
    """Other shapes and other batches are no fault, and are told."""
    apart = result(BEHIND, second)
    assert apart.status == "not_applicable"
    assert told in str(apart)


def test_heads_that_return_no_number_a_position_are_inconclusive():
    """Where nothing gives values, nothing can be compared."""
    wide = partial(Stage, hidden=Net.behind_norm, width=3)
    assert result(wide, wide).status == "inconclusive"
