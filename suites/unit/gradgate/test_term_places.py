"""Where a loss term is: a local variable, a part of one, or what a call had and gave back."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run
from gradgate.subjects.inside import StepLosses
from gradgate.subjects.own_loop import OwnLoop

BATCH = torch.ones(2, 3)


class Critic(nn.Module):
    """A module that gives its loss back in several forms."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, batch: Tensor) -> Any:
        squares = self.net(batch).square()
        loss = squares.mean()
        return SimpleNamespace(loss=loss, parts={"value": loss + 1, "all": [loss + 2, loss + 3]})


class Trainer:
    """Its terms are local variables of methods that have returned when it goes backward."""

    def __init__(self, parts: int = 1) -> None:
        torch.manual_seed(0)
        self.critic, self.parts = Critic(), parts
        self.optimizer = torch.optim.SGD(self.critic.parameters(), lr=0.1)

    def compute_loss(self, batch: Tensor) -> tuple[float, Tensor, Tensor]:
        value_loss = self.critic(batch).loss / self.parts
        return 1.0, 2 * value_loss, value_loss

    def unused_loss(self) -> None:
        """Nobody calls it."""

    def train_step(self, batch: Tensor) -> None:
        for part in batch.chunk(self.parts):
            outputs = self.critic(part)
            _, total, _ = self.compute_loss(part)
            del outputs.parts["all"][1]
            total.backward()
        self.optimizer.step()

    def train(self, loader: Any) -> None:
        for batch in loader:
            self.train_step(batch)


class StepRun(StepLosses):
    def __init__(self, place: str, parts: int = 1) -> None:
        self.terms = {"value_loss": place}  # type: ignore[misc]
        self.trainer = Trainer(parts)
        self.modules, self.optimizers = {"critic": self.trainer.critic}, [self.trainer.optimizer]

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield BATCH

    def step(self, batch: Tensor) -> Mapping[str, float]:
        self.trainer.train_step(batch)
        return {}


class LoopRun(OwnLoop, StepRun):
    def __init__(self, place: str, parts: int = 1) -> None:
        StepRun.__init__(self, place, parts)
        self.begin(self.trainer.train)

    step = OwnLoop.step


KINDS = (StepRun, LoopRun)


def value_of(run: Run) -> float:
    return run.losses(BATCH)["value_loss"].item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("compute_loss:value_loss", 0.0),
        ("Trainer.compute_loss:value_loss", 0.0),
        ("compute_loss:return[2]", 0.0),
        ("Critic.forward:return.loss", 0.0),
        ("Critic.forward:loss", 0.0),
        ('Critic.forward:return.parts["value"]', 1.0),
        ("outputs.loss", 0.0),
        ("outputs.parts['value']", 1.0),
        ("outputs.parts['all'][0]", 2.0),
    ],
)
def test_a_term_is_found_at_its_place(kind: Any, place: str, expected: float) -> None:
    """Functions by name or the end of the qualified one; attributes and keys lead on."""
    run = kind(place)
    loss = run.trainer.critic(BATCH).loss.item()
    assert value_of(run) == pytest.approx(loss + expected)


@pytest.mark.parametrize("kind", KINDS)
def test_return_alone_is_the_first_tensor(kind: Any) -> None:
    """`compute_loss:return` of a tuple with a number in front."""
    run = kind("compute_loss:return")
    terms = run.losses(BATCH)
    assert terms["value_loss"] is terms["total"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_is_a_term(kind: Any) -> None:
    """A count that the step holds as a Python number: for an overridden `losses` to divide by."""
    number = kind("compute_loss:return[0]").losses(BATCH)["value_loss"]
    assert isinstance(number, torch.Tensor) and number.dim() == 0 and not number.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_term_in_a_call_has_a_part_at_each_backward(kind: Any) -> None:
    """The latest call in front of each backward is that part's."""
    whole, split = kind("compute_loss:return", parts=1), kind("compute_loss:return", parts=2)
    assert value_of(split) == pytest.approx(value_of(whole))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("compute_los:value_loss", r"no call of 'compute_los' ended.*did you mean 'compute_loss'"),
        ("compute_loss:value_los", r"no tensor 'compute_loss:value_los' in the last call.*mean 'value_loss'.*batch"),
        ("compute_loss:return[5]", r"no tensor 'compute_loss:return\[5\]'"),
        ("outputs.los", r"no tensor 'outputs.los' at the step's backward"),
        ("compute_loss()", r"is no `variable`"),
    ],
)
def test_a_place_without_a_tensor_says_what_there_is(place: str, message: str) -> None:
    """The function that never ended, the nearest one that did, or the tensors that there are."""
    with pytest.raises(SubjectError, match=message):
        StepRun(place).losses(BATCH)


@pytest.mark.parametrize("kind", KINDS)
def test_a_term_in_a_function_that_is_not_called_is_left_out(kind: Any) -> None:
    """Another setting calls it; one that nothing defines is an error (above)."""
    assert list(kind("unused_loss:value_loss").losses(BATCH)) == ["total"]
    assert list(kind("Trainer.unused_loss:return").losses(BATCH)) == ["total"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_profiled_behind_the_losses(kind: Any) -> None:
    """The profile function is the one that was there, on a loop's own stack, too."""
    run, seen = kind("compute_loss:value_loss"), []
    run.losses(BATCH)
    handle = run.trainer.critic.register_forward_hook(lambda *_: seen.append(sys.getprofile()))
    run.step(BATCH)
    handle.remove()
    assert set(seen) == {sys.getprofile()} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_profiled_where_no_place_names_a_function(kind: Any) -> None:
    """Local variables cost nothing."""
    run, seen = kind("total"), []
    run.trainer.critic.register_forward_hook(lambda *_: seen.append(sys.getprofile()))
    run.losses(BATCH)
    assert set(seen) == {None}
