"""Snapshots of a run's state, and the first difference between two."""

from __future__ import annotations

from math import nan

import pytest
import torch
from torch import Tensor, nn

from gradgate.checks.snapshot import Difference, compare, first_difference, named_parameters, take
from gradgate.subjects.contract import Run

ONE_OF_TWO = "1 of 2 elements differ, by up to"


def trained_run() -> Run:
    """A layer with batch statistics and an Adam that has stepped once."""
    torch.manual_seed(0)
    run = Run()
    run.modules = {"net": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))}
    loose = nn.Parameter(torch.zeros(1))
    run.optimizers = [torch.optim.Adam([*run.modules["net"].parameters(), loose], lr=0.1)]
    (run.modules["net"](torch.randn(4, 2)).square().sum() + loose.sum()).backward()
    run.optimizers[0].step()
    return run


def test_snapshot_names_parameters_buffers_state_and_settings() -> None:
    """Every kind of state is there under a name of its own."""
    names = set(take(trained_run()))

    assert {
        "net.0.weight",
        "net.1.running_mean",
        "optimizers[0].state[net.0.weight].exp_avg",
        "optimizers[0].state[optimizers[0].param_groups[0].params[4]].step",
        "optimizers[0].param_groups[0].lr",
        "optimizers[0].param_groups[0].betas[0]",
    } <= names


def test_snapshot_is_a_copy() -> None:
    """What happens to the run later does not reach it."""
    run = trained_run()
    before = take(run)
    with torch.no_grad():
        run.modules["net"][0].weight.add_(1)

    found = first_difference(before, take(run))

    assert found == Difference("net.0.weight", "4 of 4 elements differ, by up to 1")


def test_first_difference_is_none_between_equal_snapshots() -> None:
    """Two runs from one seed have one state."""
    assert first_difference(take(trained_run()), take(trained_run())) is None


def test_first_difference_names_what_is_gone_and_what_is_new() -> None:
    """A value on one side alone differs."""
    assert first_difference({"a": 1}, {}) == Difference("a", "is gone")
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == Difference("b", "was not there before")


@pytest.mark.parametrize(
    ("before", "after", "text", "nonfinite"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, nan]), f"{ONE_OF_TWO} inf, 1 became NaN or Inf", 1),
        (torch.tensor(0.0), torch.tensor(-0.0), "1 of 1 elements differ, by up to 0", 0),
        (torch.tensor([1]), torch.tensor([3]), "1 of 1 elements differ, by up to 2", 0),
        (torch.tensor([True]), torch.tensor([False]), "1 of 1 elements differ, by up to 1", 0),
        (torch.zeros(2), torch.zeros(3), "float32[2] became float32[3]", 0),
        (torch.zeros(2), torch.zeros(2).half(), "float32[2] became float16[2]", 0),
        (0.1, 0.2, "0.1 became 0.2", 0),
        (torch.zeros(1), None, "tensor([0.]) became None", 0),
    ],
)  # fmt: skip
def test_compare_says_how_far_apart_two_values_are(before: object, after: object, text: str, nonfinite: int) -> None:
    """Elements, distance, NaNs; shapes and types where those differ."""
    assert compare("x", before, after) == Difference("x", text, nonfinite)


@pytest.mark.parametrize("value", [torch.tensor([nan, 1.0]), torch.tensor(2.5).bfloat16(), torch.zeros(0), 3, None])
def test_compare_takes_the_same_bits_for_equal(value: object) -> None:
    """NaN equals NaN; the empty tensor equals itself."""
    other = value.clone() if isinstance(value, Tensor) else value

    assert compare("x", value, other) is None


def test_named_parameters_gives_a_tied_parameter_its_first_name() -> None:
    """One parameter, one name."""
    run = Run()
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    run.modules = {"first": first, "second": second}

    assert list(named_parameters(run).values()) == ["first.weight"]
