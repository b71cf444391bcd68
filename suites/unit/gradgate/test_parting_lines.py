"""The line at which two runs of one seed part: not one that only takes the time."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import torch
from torch import Tensor

from gradgate.checks.parting_lines import line_of_parting_runs

SOURCE = Path(__file__).parent
COUNTER = itertools.count(1)
Steps = list[float]


def timed(weight: Tensor, factor: float) -> Steps:
    """Takes the time, and keeps it to itself."""
    start = time.perf_counter()
    loss = (weight * factor).square().sum()
    loss.backward()
    seconds = time.perf_counter() - start
    return [float(loss.detach()), 0.0 * seconds]


def right() -> Steps:
    factor = 2.0
    return timed(torch.ones(2, requires_grad=True), factor)


def number_that_differs() -> Steps:
    started = time.perf_counter()
    factor = 2.0 + next(COUNTER)
    return timed(torch.ones(2, requires_grad=True), factor + 0.0 * started)


def shuffled(rows: list[int]) -> list[int]:
    shift = next(COUNTER)
    return [(row + shift) % 97 for row in rows]


def order_that_differs() -> Steps:
    order = shuffled([1, 2, 3])
    return timed(torch.ones(2, requires_grad=True), float(sum(order)))


def loss_that_differs() -> Steps:
    weight = torch.ones(2, requires_grad=True)
    noisy = weight * (1.0 + next(COUNTER))
    return timed(noisy, 1.0)


def agree(one: Steps, other: Steps) -> bool:
    return one == other


def test_number_that_differs_is_named_and_no_time() -> None:
    """With the one's number both runs agree; with its time they do not."""
    place = line_of_parting_runs(SOURCE, number_that_differs, number_that_differs, agree)

    assert place is not None
    assert place.source == "factor = 2.0 + next(COUNTER)"


def test_number_inside_of_a_function_is_named_where_it_comes_to_be() -> None:
    """The counter, of which the order is made."""
    place = line_of_parting_runs(SOURCE, order_that_differs, order_that_differs, agree)

    assert place is not None
    assert place.source == "shift = next(COUNTER)"


def test_tensor_on_a_graph_is_named_without_a_trial() -> None:
    """Its gradient cannot be put in."""
    place = line_of_parting_runs(SOURCE, loss_that_differs, loss_that_differs, agree)

    assert place is not None
    assert place.source == "noisy = weight * (1.0 + next(COUNTER))"


def test_no_line_is_named_where_runs_agree() -> None:
    """Times differ, and nothing comes of them: that both are one repairs nothing."""
    assert line_of_parting_runs(SOURCE, right, right, lambda _one, _other: False) is None
