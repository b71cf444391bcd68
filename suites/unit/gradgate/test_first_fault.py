"""One fault is enough: what a trial compares before it asks a check again."""

from __future__ import annotations

import pytest
import torch

from gradgate.checks.first_fault import FirstFault, first_fault_only, wanted


@pytest.mark.parametrize(
    ("before", "now", "alike"),
    [
        ([1.0, float("nan")], [1.0, float("nan")], True),
        ([float("nan")], [0.0], False),
        ([float("inf")], [float("inf")], True),
        ([1.0], [1.0, 1.0], False),
        ([1.0], [1.5], False),
        (None, None, True),
        (None, [1.0], False),
        ([1.0], None, False),
    ],
)
def test_an_answer_is_as_before_bit_for_bit(before: list[float] | None, now: list[float] | None, alike: bool):
    """NaN is NaN, another shape is another answer, and what raises still raises."""
    answers = [before, before, now]

    def call() -> torch.Tensor:
        answer = answers.pop(0)
        if answer is None:
            raise ValueError("no answer")
        return torch.tensor(answer)

    first = FirstFault()
    first.note(call)
    assert first.is_as_before()
    assert first.is_as_before() is alike


def test_another_dtype_is_another_answer():
    """1.0 in float64 is not 1.0 in float32; and nothing is as before where nothing was noted."""
    answers = iter([torch.ones(1), torch.ones(1).double()])
    first = FirstFault()
    assert not first.is_as_before()
    first.note(lambda: next(answers))
    assert not first.is_as_before()


def test_one_fault_is_wanted_in_the_block_alone():
    """What a check is asked for again stands in the detail."""
    assert wanted() is None
    with first_fault_only({"key": "a"}) as first:
        assert wanted() is first
        assert first.detail == {"key": "a"}
    assert wanted() is None
