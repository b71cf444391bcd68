"""The first difference between two sets of named values: found bit for bit, told in numbers."""

from __future__ import annotations

import pytest
import torch

from gradgate.watch.difference import Difference, compare, first_difference

NAN, INF = float("nan"), float("inf")


def test_difference_is_none_where_names_and_bits_are_the_same():
    """NaN equals NaN of the same bits, whatever the strides."""
    base = torch.tensor([[1.0, NAN], [2.0, INF]])
    assert first_difference({"a": base, "b": 3, "c": None}, {"c": None, "b": 3, "a": base.t().contiguous().t()}) is None
    assert first_difference({}, {}) is None


def test_difference_is_the_first_in_the_order_of_before():
    """Later ones are not told."""
    before, after = {"a": 1, "b": 2, "c": 3}, {"c": 0, "b": 0, "a": 1}
    assert first_difference(before, after) == Difference("b", "2 became 0", 0)


def test_difference_names_what_is_gone_before_what_was_added():
    """A name of before that is missing comes first; an added one only where all else is the same."""
    assert first_difference({"a": 1, "b": 2}, {"a": 1, "c": 2}) == Difference("b", "is gone")
    assert first_difference({"a": 1}, {"a": 1, "c": 2, "d": 3}) == Difference("c", "was not there before")


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (1, 1.0, "1 became 1.0"),
        (True, 1, "True became 1"),
        ("x", "y", "'x' became 'y'"),
        (torch.ones(2), 1, "tensor([1., 1.]) became 1"),
        (1, torch.ones(2), "1 became tensor([1., 1.])"),
        (torch.ones(2), torch.ones(1, 2), "float32[2] became float32[1, 2]"),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), "float32[2] became float64[2]"),
        (torch.ones(()), torch.ones(1), "float32[] became float32[1]"),
    ],
    ids=["float", "bool", "text", "no tensor", "now tensor", "shape", "dtype", "dimensions"],
)
def test_difference_tells_type_shape_and_dtype_apart(before, after, text: str):
    """Equal numbers of another type, shape or dtype are a difference, and are shown as they are."""
    assert compare("name", before, after) == Difference("name", text)
    assert compare("name", after, before) is not None


@pytest.mark.parametrize(
    ("before", "after", "text", "nonfinite"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.5, 7.0], "2 of 3 elements differ, by up to 4", 0),
        ([1.0, 2.0], [1.0, 1.87655], "1 of 2 elements differ, by up to 0.123", 0),
        ([1.0, 2.0], [NAN, INF], "2 of 2 elements differ, by up to inf, 2 became NaN or Inf", 2),
        ([NAN, 2.0], [1.0, 2.0], "1 of 2 elements differ, by up to inf", 0),
        ([NAN, 2.0], [INF, INF], "2 of 2 elements differ, by up to inf, 1 became NaN or Inf", 1),
        ([NAN, INF, 1.0], [NAN, INF, 2.0], "1 of 3 elements differ, by up to 1", 0),
        ([0.0, 1.0], [-0.0, 1.0], "1 of 2 elements differ, by up to 0", 0),
    ],
)
def test_difference_counts_elements_and_measures_the_largest(before, after, text: str, nonfinite: int):
    """Elements whose bits differ; their largest distance, Inf where a NaN came or went; how many got lost."""
    found = compare("w", torch.tensor(before), torch.tensor(after))
    assert found == Difference("w", text, nonfinite)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_difference_counts_elements_of_any_shape(shape):
    """All of them, each once."""
    before = torch.zeros(shape)
    found = compare("w", before, before + 0.5)
    count = before.numel()
    assert found == Difference("w", f"{count} of {count} elements differ, by up to 0.5")


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (torch.tensor([7, 8]), torch.tensor([7, 9]), "1 of 2 elements differ, by up to 1"),
        (torch.tensor([200], dtype=torch.uint8), torch.tensor([0], dtype=torch.uint8), "by up to 200"),
        (torch.tensor([True]), torch.tensor([False]), "by up to 1"),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 4j]), "1 of 1 elements differ, by up to 3"),
        (torch.ones(2).to(torch.float8_e4m3fn), torch.zeros(2).to(torch.float8_e4m3fn), "2 of 2 elements differ"),
        (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16), "2 of 2 elements differ, by up to"),
    ],
    ids=["int", "uint8", "bool", "complex", "float8", "bfloat16"],
)
def test_difference_measures_every_dtype(before, after, text: str):
    """Without wrapping around, and the imaginary part as well."""
    found = compare("w", before, after)
    assert found is not None
    assert text in found.text


def test_difference_reads_one_element_of_any_stride():
    """A column of one row counts as contiguous, and its bytes are no view of it."""
    base = torch.arange(6.0).reshape(2, 3)
    column = base[:1, 1]
    assert column.stride() != (1,)
    assert compare("w", column, torch.tensor([1.0])) is None
    assert compare("w", column, torch.tensor([2.0])) == Difference("w", "1 of 1 elements differ, by up to 1")


def test_difference_reads_tensors_on_a_graph():
    """Parameters and results with a history, without adding to it."""
    weight = torch.nn.Parameter(torch.ones(2))
    assert compare("w", weight, weight * 2) == Difference("w", "2 of 2 elements differ, by up to 1")
    assert compare("w", weight, weight.detach().clone()) is None
