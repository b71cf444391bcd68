"""The lines behind which parameters get no gradient though no graph is cut: numbers, saturation, groups; and a backward
that comes twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.checks.cut_lines import line_of_numbers
from gradgate.checks.group_lines import line_of_group
from gradgate.checks.lost_gradients import line_of_lost_gradient
from gradgate.checks.own_lines import place
from gradgate.checks.second_lines import line_of_second

SOURCE = Path(__file__).parent
Loss = Callable[[Tensor], Tensor]


# --- numbers and saturation -------------------------------------------------------------------------------------------


def through_python(x: Tensor) -> Tensor:
    """A number that a guard reads, and one that the loss is made of."""
    if x.sum().item() > 1e9:
        raise ValueError("too large")
    value = torch.tensor(x.tolist()).requires_grad_()
    return value.square().sum()


def guarded(x: Tensor) -> Tensor:
    """Numbers that the loss is not made of."""
    if x.sum().item() > 1e9:
        raise ValueError("too large")
    return 0.0 * x.square().sum()


def saturated(x: Tensor) -> Tensor:
    """All of it is above the clamp."""
    value = 3 * x
    near = value.clamp(max=0.5)
    return (near - 2).square().sum()


def saturated_in_part(x: Tensor) -> Tensor:
    """One element is below the clamp, and another line has no gradient at all."""
    near = (torch.arange(2.0) * x).clamp(max=0.5)
    return near.square().sum() * 0.0


def stepped(loss: Loss) -> Callable[[], list[Tensor]]:
    def step() -> list[Tensor]:
        x = torch.ones(2, requires_grad=True)
        loss(x).backward()
        return [x]

    return step


def test_number_that_comes_back_into_the_loss_is_named() -> None:
    """Not the one that only a guard reads."""
    found = place(line_of_numbers(SOURCE, stepped(through_python)))

    assert found is not None
    assert found.source == "value = torch.tensor(x.tolist()).requires_grad_()"


def test_number_that_does_not_is_no_cut() -> None:
    """Other numbers leave the loss as it is."""
    assert line_of_numbers(SOURCE, stepped(guarded)) is None


def lost(loss: Loss) -> Any:
    x = torch.ones(2, requires_grad=True)
    return line_of_lost_gradient(SOURCE, lambda: loss(x).backward(), [x])


def test_saturated_clamp_is_named() -> None:
    """A gradient comes in, and none goes on."""
    assert lost(saturated).source == "near = value.clamp(max=0.5)"


def test_operation_that_lets_a_part_through_is_not() -> None:
    """The product with 0 is: what comes in there is not 0."""
    assert lost(saturated_in_part).source == "return near.square().sum() * 0.0"


def test_no_line_is_named_where_the_gradient_arrives() -> None:
    """The clean twin."""
    assert lost(lambda x: x.square().sum()) is None


# --- groups -----------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head, self.other = (nn.Linear(2, 2) for _ in range(3))


class Trained:
    """A model of which trunk and head are used, and the optimizers of it."""

    def __init__(self, make: Callable[[Model], torch.optim.Optimizer]) -> None:
        self.model = Model()
        self.optimizers = [make(self.model)]


def groups(modules: list[nn.Module]) -> list[dict[str, Any]]:
    return [{"params": list(module.parameters())} for module in modules]


def of_both(model: Model) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups([model.trunk, model.head]), lr=0.1)


def of_another(model: Model) -> torch.optim.Optimizer:
    kept = [
        model.trunk,
        model.other,
    ]
    return torch.optim.SGD(groups(kept), lr=0.1)


def of_the_trunk(model: Model) -> torch.optim.Optimizer:
    kept = [model.trunk]
    return torch.optim.SGD(groups(list(kept)), lr=0.1)


def line(make: Callable[[Model], torch.optim.Optimizer]) -> str:
    def alive(run: Trained) -> set[nn.Parameter]:
        run.model.head(run.model.trunk(torch.ones(2))).sum().backward()
        return {parameter for parameter in run.model.parameters() if parameter.grad is not None}

    def unheld(run: Trained) -> set[nn.Parameter]:
        held = {p for group in run.optimizers[0].param_groups for p in group["params"]}
        return set(run.model.parameters()) - held

    found = place(line_of_group(SOURCE, lambda: Trained(make), alive, unheld))
    return "" if found is None else found.source


@pytest.mark.parametrize(
    ("make", "source"),
    [(of_another, "model.other,"), (of_the_trunk, "kept = [model.trunk]"), (of_both, "")],
)
def test_line_that_names_the_wrong_module_is_named(make: Any, source: str) -> None:
    """One that is not used; else the last of those beside which one is missing; none on the clean twin."""
    assert line(make) == source


# --- a second backward ------------------------------------------------------------------------------------------------


def backward(loss: Tensor) -> None:
    loss.backward()


def twice() -> None:
    loss = torch.ones(2, requires_grad=True).square().sum()
    backward(loss)
    backward(loss)  # again


def from_one_line() -> None:
    loss = torch.ones(2, requires_grad=True).square().sum()
    for _ in range(2):
        backward(loss)


def once() -> None:
    backward(torch.ones(2, requires_grad=True).square().sum())


def test_call_that_leads_to_the_second_backward_is_named() -> None:
    """Both go through one line, where the error is raised."""
    found = place(line_of_second(SOURCE, twice))

    assert found is not None
    assert found.source == "backward(loss)  # again"


@pytest.mark.parametrize("work", [from_one_line, once])
def test_no_call_is_named_where_none_parts(work: Callable[[], None]) -> None:
    """The same line both times, and the clean twin."""
    assert line_of_second(SOURCE, work) is None
