"""The tape holds constant what autograd takes for constant, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradgate.checks.stop_gradient import ReplayMismatchError, record, replay


class Cube(torch.autograd.Function):
    """x cubed times a constant, with the right backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(x, factor)
        return x * x * x * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, factor = ctx.saved_tensors
        return grad * 3 * x * x * factor, None


def with_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        weight = torch.softmax(x, 0) * 2
    return (weight * x).sum()


def into_a_buffer(x: Tensor) -> Tensor:
    buffer = x.detach() * 5
    buffer[1] = x[0]
    buffer += x
    return buffer.square().sum()


def through_the_graph_by_data(x: Tensor) -> Tensor:
    y = x * 2
    y.data[0] = 1.0
    return (y * y).sum()


def straight_through(x: Tensor) -> Tensor:
    return ((x + (x.round() - x).detach()) ** 2).sum()


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "smooth": lambda x: (x.exp() * x).sum(),
    "detach": lambda x: (x.detach() * x).sum(),
    "data": lambda x: (x.data * x).sum(),
    "no_grad": with_no_grad,
    "item": lambda x: x.square().sum() * x[0].item(),
    "numpy": lambda x: (torch.from_numpy(x.detach().numpy() ** 2) * x).sum(),
    "argmax": lambda x: x[x.argmax()] ** 2,
    "mask": lambda x: torch.where(x > 0, x * x, -x).sum(),
    "buffer": into_a_buffer,
    "straight-through": straight_through,
    "cross-entropy": lambda x: F.cross_entropy(x[None], x.argmax()[None], weight=x.detach().abs()),
    "function": lambda x: Cube.apply(x, x.detach()).sum(),
    "checkpoint": lambda x: checkpoint(lambda y: (y * y.detach()).sum(), x, use_reentrant=False),
}


def slopes(function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The slope along a fixed direction, by backward and by differences of replays."""
    x = torch.tensor([0.7, -1.3, 2.1], dtype=torch.float64, requires_grad=True)
    u = torch.tensor([1.0, 0.5, -0.7], dtype=torch.float64)
    loss, tape = record(lambda: function(x))
    loss.backward()
    assert x.grad is not None
    values = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            x.add_(u, alpha=h)
        values.append(float(replay(lambda: function(x), tape).detach()))
        with torch.no_grad():
            x.add_(u, alpha=-h)
    return float(x.grad @ u), (values[0] - values[1]) / 2e-5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_differences_of_replays_are_what_backward_says(name: str) -> None:
    """Each way of cutting the graph is held constant."""
    by_backward, by_differences = slopes(FUNCTIONS[name])

    assert by_differences == pytest.approx(by_backward, rel=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_replay_at_the_same_point_gives_the_same_value(name: str) -> None:
    """Recording and replay are the same function there, bit for bit."""
    x = torch.tensor([0.7, -1.3, 2.1], dtype=torch.float64, requires_grad=True)
    recorded, tape = record(lambda: FUNCTIONS[name](x))

    assert float(replay(lambda: FUNCTIONS[name](x), tape).detach()) == float(recorded.detach())


def test_write_through_data_is_part_of_the_function() -> None:
    """The value that was written over does not depend on x; backward thinks that it does."""
    by_backward, by_differences = slopes(through_the_graph_by_data)

    assert by_differences != pytest.approx(by_backward, rel=1e-2)


def test_in_place_operators_on_the_graph_are_repeated() -> None:
    """What they add off the graph is constant."""

    def accumulated(x: Tensor) -> Tensor:
        y = x * 1
        y += x.detach()
        y.mul_(x.detach())
        return y.sum()

    by_backward, by_differences = slopes(accumulated)

    assert by_differences == pytest.approx(by_backward, rel=1e-7)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (lambda x: x.exp().sum(), lambda x: x.sin().sum(), r"call 0 on the graph is sin\(\), it was exp\(\)"),
        (lambda x: x.sum(), lambda x: x.sum() * 2, "one call on the graph more than the 1"),
        (lambda x: x.sum() * 2, lambda x: x.sum(), "1 calls on the graph, 2 before"),
        (lambda x: x * torch.ones(3), lambda x: x * torch.ones(1), r"has shape \[1\], it had \[3\]"),
        (lambda x: x * torch.ones(3), lambda x: x * x, "has other arguments off the graph"),
    ],
)
def test_replay_that_takes_another_way_is_refused(first: Any, second: Any, message: str) -> None:
    """Other calls, more, fewer, or of another shape."""
    x = torch.ones(3, requires_grad=True)
    _, tape = record(lambda: first(x))

    with pytest.raises(ReplayMismatchError, match=message):
        replay(lambda: second(x), tape)


def test_apply_of_custom_functions_is_put_back() -> None:
    """Nothing of the tape stays behind, after an error either."""
    before = torch.autograd.Function.__dict__["apply"]
    with pytest.raises(ZeroDivisionError):
        record(lambda: 1 / 0)

    assert torch.autograd.Function.__dict__["apply"] is before
