"""GG615: a stage that does not start from what the stage before it has learnt is told, one that does is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gradgate

CODE = "GG615"


class Line(gradgate.Run):
    """Fits one number a row."""

    def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.modules = {"critic": nn.Linear(3, 1).to(device, dtype)}
        self.optimizers = [torch.optim.SGD(self.modules["critic"].parameters(), 0.1)]

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield torch.ones(4, 3, dtype=next(self.modules["critic"].parameters()).dtype)

    def step(self, batch: Tensor) -> dict[str, float]:
        self.optimizers[0].zero_grad()
        loss = self.modules["critic"](batch).square().mean()
        loss.backward()
        self.optimizers[0].step()
        return {"loss": loss.item()}


class Still(Line):
    """A stage that trains nothing."""

    def step(self, batch: Tensor) -> dict[str, float]:
        return {"loss": self.modules["critic"](batch).square().mean().item()}


def hand(before: gradgate.Run, folder: Path) -> gradgate.Run:
    """Through a file, as it should be."""
    torch.save(before.modules["critic"].state_dict(), folder / "critic.pt")
    run = Line(7)
    run.modules["critic"].load_state_dict(torch.load(folder / "critic.pt"))
    return run


def forget(_before: gradgate.Run, _folder: Path) -> gradgate.Run:
    """Anew."""
    return Line(7)


def half(before: gradgate.Run, _folder: Path) -> gradgate.Run:
    """Without the bias."""
    run = Line(7)
    weight = {"weight": before.modules["critic"].state_dict()["weight"]}
    run.modules["critic"].load_state_dict(weight, strict=False)
    return run


def fitting(before: gradgate.Run, _folder: Path) -> gradgate.Run:
    """What fits."""
    run = Line(7)
    own = run.modules["critic"].state_dict()
    state = before.modules["critic"].state_dict()
    own.update({name: tensor for name, tensor in state.items() if tensor.shape == own[name].shape})
    run.modules["critic"].load_state_dict(own)
    return run


def same(before: gradgate.Run, _folder: Path) -> gradgate.Run:
    """The module itself."""
    run = Line(7)
    run.modules = dict(before.modules)
    return run


def averaged(before: gradgate.Run, folder: Path) -> gradgate.Run:
    """An average of what was learnt, which the adapter has put into the stage before."""
    with torch.no_grad():
        for parameter in before.modules["critic"].parameters():
            parameter.mul_(0.5)
    return hand(before, folder)


def wiped(before: gradgate.Run, _folder: Path) -> gradgate.Run:
    """The module itself, and anew."""
    before.modules["critic"].reset_parameters()  # type: ignore[operator]
    return same(before, _folder)


def broken(_before: gradgate.Run, _folder: Path) -> gradgate.Run:
    raise FileNotFoundError("critic.pt")


def result(start, earlier=Line, stage: str = "second") -> gradgate.Result:
    """Of the check on a subject whose second stage starts so."""
    stages = [gradgate.Stage("first", earlier), gradgate.Stage("second", Line, after=gradgate.After(earlier, start))]
    verdict = gradgate.check_trainer(gradgate.Subject("two", stages), select=[CODE], stages=[stage])
    [result] = verdict.results
    return result


@pytest.mark.parametrize("start", [hand, same, averaged])
def test_stage_that_starts_from_what_was_learnt_passes(start):
    """Through a file, as the module itself or as an average: this stage starts from what the one before has learnt."""
    assert result(start).status == "passed"


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (forget, "2 of 2 tensors of `critic` are not those"),
        (wiped, "tensors of `critic` are not those"),
        (half, "1 of 2 tensors of `critic` are not those that the stage before left, `bias` first"),
        (fitting, "`critic.weight` was handed over with shape [2, 3] and left out"),
    ],
)
def test_stage_that_starts_from_something_else_fails(start, told: str):
    """A module that is anew, loaded by halves or only where it fits is told with what is missing."""
    failed = result(start)
    assert failed.status == "failed"
    assert told in failed.findings[0].message


def test_handover_that_raises_is_a_finding():
    """A stage that cannot be started behind the other one fails with what was raised."""
    assert "FileNotFoundError" in result(broken).findings[0].message


def test_stage_before_that_trains_nothing_is_inconclusive():
    """Where nothing was learnt nothing can have been lost."""
    assert result(hand, Still).status == "inconclusive"


def test_stage_without_another_before_it_is_told_the_line_that_would_enable_it():
    """The check does not apply to a stage without `after`, and says what to write."""
    first = result(hand, stage="first")
    assert first.status == "not_applicable"
    assert "gradgate.After" in str(first)
