"""Batches of any make: leaves, replacement, comparison."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from gradgate.checks.batches import filled, first_difference, floating_leaves, leaves, named, replaced
from gradgate.checks.snapshot import Difference


@dataclass(frozen=True)
class Frozen:
    token: torch.Tensor
    reward: torch.Tensor


class Pair(NamedTuple):
    left: Any
    right: Any


class Plain:
    def __init__(self, reward: Any) -> None:
        self.reward = reward


def batch() -> dict[str, Any]:
    """One of each kind of container, and of each kind of leaf."""
    return {
        "frozen": Frozen(torch.arange(3), torch.ones(3)),
        "pair": Pair([torch.zeros(2), 1.5], (np.ones(2), "text")),
        "plain": Plain(torch.ones(1)),
        "empty": torch.zeros(0),
    }


def test_leaves_are_named_by_their_path() -> None:
    """Items in brackets, attributes behind a dot."""
    assert [named(path) for path, _ in leaves(batch())] == [
        "batch['frozen'].token",
        "batch['frozen'].reward",
        "batch['pair'][0][0]",
        "batch['pair'][0][1]",
        "batch['pair'][1][0]",
        "batch['pair'][1][1]",
        "batch['plain'].reward",
        "batch['empty']",
    ]


def test_floating_leaves_are_those_that_can_hold_a_nan() -> None:
    """No integers, no text, nothing empty."""
    assert [named(path) for path, _ in floating_leaves(batch())] == [
        "batch['frozen'].reward",
        "batch['pair'][0][0]",
        "batch['pair'][0][1]",
        "batch['pair'][1][0]",
        "batch['plain'].reward",
    ]


def test_leaves_ends_on_a_batch_that_contains_itself() -> None:
    """A container is entered once."""
    ring: list[Any] = [torch.ones(1)]
    ring.append(ring)

    assert len(leaves(ring)) == 1


def test_bare_tensor_is_a_batch_of_one_leaf() -> None:
    """The empty path is the batch itself."""
    ((path, leaf),) = floating_leaves(torch.ones(2))

    assert named(path) == "batch"
    assert replaced(leaf, path, 7) == 7


@pytest.mark.parametrize("index", range(5))
def test_replaced_changes_one_leaf_of_a_copy(index: int) -> None:
    """The batch itself and all other leaves stay as they are."""
    original = batch()
    path, leaf = floating_leaves(original)[index]

    other = replaced(original, path, filled(leaf, nan))

    assert first_difference(original, batch()) is None
    assert [type(part) for part in other.values()] == [type(part) for part in original.values()]
    assert first_difference(original, other).name == named(path)


def test_filled_keeps_shape_and_dtype() -> None:
    """A tensor, an array, a number."""
    tensor, array = filled(torch.ones(2, 3).double(), nan), filled(np.ones(2), nan)

    assert (tensor.dtype, tensor.shape, bool(tensor.isnan().all())) == (torch.float64, (2, 3), True)
    assert np.isnan(array).all()
    assert isnan(filled(1.0, nan))


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        ([1, 2], [1, 2], None),
        ([nan], [nan], None),
        ([np.array([nan])], [np.array([nan])], None),
        ([np.array(["a"])], [np.array(["b"])], Difference("batch[0]", "['a'] became ['b']")),
        ([len], [len], None),
        ({"a": 1}, {"b": 1}, Difference("batch", "1 leaves became 1, or other names")),
        ([torch.ones(1)], [torch.zeros(1)], Difference("batch[0]", "1 of 1 elements differ, by up to 1")),
    ],
)
def test_first_difference_compares_leaf_by_leaf(left: Any, right: Any, found: Difference | None) -> None:
    """Bit for bit; names count."""
    assert first_difference(left, right) == found


def test_a_mask_of_floats_holds_no_nan() -> None:
    """Lengths and indices are computed from it; rewards of 0 and 1, [B], are numbers."""
    mask_BS, reward_B = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([1.0, 0.0])
    found = floating_leaves({"mask": mask_BS, "reward": reward_B, "nothing": torch.zeros(2, 2)})
    assert [named(path) for path, _ in found] == ["batch['reward']", "batch['nothing']"]
