"""GG404 on a stage's own batches, cut short: what breaks at one position turns it red, the clean twin passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from fixtures.check_runs import errors, run_check
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Run, Stage, Subject

Loss = Callable[[nn.Module, Tensor], Tensor]


def clean(model: nn.Module, x_BS1: Tensor) -> Tensor:
    ahead_BS: Tensor = model(x_BS1[:, :-1])[..., 0] - x_BS1[:, 1:, 0]
    return ahead_BS.square().sum() / max(1, ahead_BS.numel())


def empty_mean(model: nn.Module, x_BS1: Tensor) -> Tensor:
    ahead_BS: Tensor = model(x_BS1[:, :-1])[..., 0] - x_BS1[:, 1:, 0]
    return ahead_BS.square().mean()


def squeezed_position(model: nn.Module, x_BS1: Tensor) -> Tensor:
    rows, positions = model(x_BS1).squeeze(-1).squeeze(-1).shape
    return clean(model, x_BS1) * rows / max(1, positions)


def constant(model: nn.Module, x_BS1: Tensor) -> Tensor:
    return clean(model, x_BS1) if x_BS1.shape[1] > 1 else torch.zeros(())


def steep_at_zero(model: nn.Module, x_BS1: Tensor) -> Tensor:
    return (clean(model, x_BS1) + 0.0 * model.weight.sum()).sqrt()  # type: ignore[operator, no-any-return]


class Short(Run):
    """A linear layer that predicts the next number."""

    def __init__(self, loss: Loss, seed: int) -> None:
        torch.manual_seed(seed)
        self.loss, self.modules = loss, {"model": nn.Linear(1, 1)}

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield torch.arange(10.0).reshape(2, 5, 1) / 10

    def losses(self, batch: Tensor) -> Mapping[str, Tensor]:
        return {"total": self.loss(self.modules["model"], batch)}

    def crop(self, batch: Tensor, count: int) -> Tensor:
        return batch[:, :count]

    def select_rows(self, batch: Tensor, index: Sequence[int]) -> Tensor:
        return batch[list(index)]


def outcome(loss: Loss) -> Outcome:
    stage = Stage("short", lambda seed, **_: Short(loss, seed))
    return run_check("GG404", Subject("short", [stage]), stage)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (empty_mean, "`total` is nan, expected a finite number, on the first 1 positions of a batch"),
        (squeezed_position, "losses() raised ValueError: not enough values to unpack"),
        (constant, "`total` is not on the graph"),
        (steep_at_zero, "the gradient of `total` at `model.weight` is not finite"),
    ],
)
def test_gg404_names_what_breaks_on_short_batches(loss: Loss, told: str) -> None:
    """One finding a symptom, with the stage and how short the batch was."""
    (message,) = errors(outcome(loss))
    assert message.startswith("stage 'short': ") and told in message


def test_gg404_passes_losses_that_are_defined_for_short_batches() -> None:
    """Of all six batches that it cuts."""
    found = outcome(clean)
    assert (found.findings, found.measured["batches_cropped"]) == ((), 6)


class Labelled(Run):
    """A classifier of positions, -100 where there is no label, whose batches are mappings."""

    def __init__(self, least: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.least, self.modules = least, {"model": nn.Linear(1, 3)}

    def batches(self) -> Iterator[Mapping[str, Tensor]]:
        while True:
            yield {"x": torch.arange(10.0).reshape(2, 5, 1) / 10, "labels": torch.arange(10).view(2, 5) % 3}

    def losses(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        logits_BVS = self.modules["model"](batch["x"]).transpose(1, 2)
        lost = nn.functional.cross_entropy(logits_BVS, batch["labels"], reduction="sum")
        return {"total": lost / (batch["labels"] != -100).sum().clamp(min=self.least)}


@pytest.mark.parametrize(("least", "told"), [(0, ["stage 'short': `total` is nan"]), (1, [])])
def test_gg404_tries_a_batch_without_labels(least: int, told: list[str]) -> None:
    """A mean over none of them is 0/0; over at least one it is 0."""
    stage = Stage("short", lambda seed, **_: Labelled(least, seed))
    found = errors(run_check("GG404", Subject("short", [stage]), stage))
    assert [message.partition(",")[0] for message in found] == told
    assert all(message.endswith("on a batch with no label") for message in found)
