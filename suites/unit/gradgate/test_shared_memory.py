"""GG215 on parameters that lie over the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures.check_runs import errors, run_check
from gradgate.subjects.contract import Run, Stage, Subject
from gradgate_wmtp.adapter import build_subject

Share = Callable[[nn.Linear, nn.Linear], object]


def by_data(one: nn.Linear, other: nn.Linear) -> None:
    """Tied without autograd's knowing."""
    other.weight.data = one.weight.data


def in_part(one: nn.Linear, other: nn.Linear) -> None:
    """A row of one is the other's."""
    other.weight = nn.Parameter(one.weight.data[1:])


def through_numpy(one: nn.Linear, other: nn.Linear) -> None:
    """No copy is made."""
    other.weight = nn.Parameter(torch.from_numpy(one.weight.detach().numpy()))


def frozen(one: nn.Linear, other: nn.Linear) -> None:
    """A reference that moves along."""
    other.weight = nn.Parameter(one.weight.detach(), requires_grad=False)


def as_one(one: nn.Linear, other: nn.Linear) -> None:
    """Right: one parameter under two names."""
    other.weight = one.weight


def copied(one: nn.Linear, other: nn.Linear) -> None:
    """Right: a copy."""
    other.weight = nn.Parameter(one.weight.detach().clone(), requires_grad=False)


def beside(one: nn.Linear, other: nn.Linear) -> None:
    """Right: parts of one memory that do not overlap, as a flat buffer of all parameters has."""
    flat = torch.zeros(18)
    one.weight.data, other.weight.data = flat[:9].view(3, 3), flat[9:].view(3, 3)


def sharing(share: Share) -> Subject:
    """A subject of one stage with two layers."""

    class Sharing(Run):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
            torch.manual_seed(seed)
            self.modules = {"one": nn.Linear(3, 3), "other": nn.Linear(3, 3)}
            share(*self.modules.values())  # type: ignore[arg-type]
            parameters = {each for module in self.modules.values() for each in module.parameters()}
            self.optimizers = [torch.optim.SGD(parameters, lr=0.1)]

        def batches(self) -> Iterator[Tensor]:
            while True:
                yield torch.ones(2, 3)

        def step(self, batch: Any) -> Mapping[str, float]:
            return {}

    return Subject("sharing", [Stage("train", Sharing)])


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (by_data, "`one.weight` and `other.weight` are two parameters over one memory"),
        (in_part, "`one.weight` and `other.weight` are two parameters over one memory"),
        (through_numpy, "`one.weight` and `other.weight` are two parameters over one memory"),
        (frozen, "`other.weight` is frozen, and lies over the memory of `one.weight`"),
    ],
)
def test_parameters_over_one_memory_are_named(share: Share, told: str) -> None:
    """Both, and what follows."""
    subject = sharing(share)
    (message,) = errors(run_check("GG215", subject, subject.stages[0]))
    assert message.startswith(told)


@pytest.mark.parametrize("share", [as_one, copied, beside])
def test_tied_copied_and_neighbouring_parameters_pass(share: Share) -> None:
    """One parameter, two memories, or two parts of one."""
    subject = sharing(share)
    assert errors(run_check("GG215", subject, subject.stages[0])) == []


@pytest.mark.parametrize("number", [0, 1])
def test_the_bundled_trainer_shares_no_memory(number: int) -> None:
    """Of either stage."""
    subject = build_subject()
    outcome = run_check("GG215", subject, subject.stages[number])
    assert outcome.findings == () and outcome.measured["parameters"] > 0
