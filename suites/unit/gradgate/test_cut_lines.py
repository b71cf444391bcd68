"""The line that cuts a graph: the last without which every parameter has a gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gradgate.checks.cut_lines import line_of_cut

SOURCE = Path(__file__).parent


def graph_cut(x: Tensor) -> Tensor:
    """A target is detached on purpose, and the prediction by mistake."""
    target = (2 * x).detach()
    prediction = (3 * x).detach()
    return (prediction - target).square()


def graph_off(x: Tensor) -> Tensor:
    """The prediction runs without gradients."""
    with torch.no_grad():
        prediction = 3 * x
    return prediction.square()


def through_python(x: Tensor) -> Tensor:
    """A detached target, and a prediction that leaves for Python."""
    target = (2 * x).detach()
    return (torch.tensor(x.item()) - target).square()


def revives(loss: Callable[[Tensor], Tensor]) -> Callable[[], bool]:
    """Whether the loss has a gradient for its parameter."""

    def run() -> bool:
        x = torch.ones((), requires_grad=True)
        total = loss(x)
        if total.requires_grad:
            total.backward()
        return x.grad is not None and bool(x.grad.any())

    return run


def test_last_cut_that_revives_is_named() -> None:
    """Not the target's, which revives as well."""
    found, cuts = line_of_cut(SOURCE, revives(graph_cut))

    assert found is not None
    assert (found[0].co_name, found[1] - found[0].co_firstlineno) == ("graph_cut", 3)
    assert len(cuts) == 2


def test_context_without_gradients_is_named() -> None:
    """Its `with`, where leaving it out revives."""
    found, _ = line_of_cut(SOURCE, revives(graph_off))

    assert found is not None
    assert (found[0].co_name, found[1] - found[0].co_firstlineno) == ("graph_off", 2)


def test_nothing_is_named_when_numbers_left_for_python_behind_the_cut() -> None:
    """They may be what cuts, and cannot be left out."""
    found, cuts = line_of_cut(SOURCE, revives(through_python))

    assert found is None
    assert len(cuts) == 1


def test_nothing_is_named_when_nothing_is_dead() -> None:
    """The clean twin."""
    assert line_of_cut(SOURCE, revives(torch.square)) == (None, ())
