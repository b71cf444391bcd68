"""Arguments: each wrong one is refused by its name, and what is right passes."""

from __future__ import annotations

import pytest
import torch

from wmtp.arguments import reduction_dtype, require_horizon, require_number, require_rank, require_shape


def test_shape_names_argument_and_axes_when_it_differs() -> None:
    """The message holds the shape that is and the one that should be."""
    with pytest.raises(ValueError, match=r"^value_BS has shape \[2, 3\], expected \[B, S\] = \[2, 4\]$"):
        require_shape("value_BS", torch.zeros(2, 3), (2, 4), "BS")


def test_rank_names_axes_when_one_is_missing() -> None:
    """A tensor with too few axes is refused, one with the right number gives its shape."""
    with pytest.raises(ValueError, match=r"^label_BSH has shape \[2, 3\], expected 3 axes \[B, S, H\]$"):
        require_rank("label_BSH", torch.zeros(2, 3), "BSH")
    assert require_rank("label_BSH", torch.zeros(2, 3, 4), "BSH") == (2, 3, 4)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), -float("inf"), True, False, None, "1", 10**400])
def test_number_is_refused_when_it_is_not_finite_and_positive(value: object) -> None:
    """0, negative, not finite, a boolean, no number, and a whole number beyond floating point: each by its name."""
    with pytest.raises(ValueError, match=r"^temperature is .*, expected a finite number > 0$"):
        require_number("temperature", value, low=0.0, low_allowed=False)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_number_is_refused_when_it_leaves_its_interval(value: float) -> None:
    """Both bounds are in the message."""
    with pytest.raises(ValueError, match=r"^gamma is .*, expected a finite number in \[0, 1\]$"):
        require_number("gamma", value, low=0.0, high=1.0)


@pytest.mark.parametrize("value", [0, 1, 0.5])
def test_number_passes_at_its_bounds(value: float) -> None:
    """Bounds belong to the interval, and whole numbers are numbers."""
    assert require_number("gamma", value, low=0.0, high=1.0) == float(value)


def test_number_may_be_low_when_low_is_allowed() -> None:
    """An interval without an upper end says >=."""
    with pytest.raises(ValueError, match=r"expected a finite number >= 0$"):
        require_number("weight", -1, low=0.0)


@pytest.mark.parametrize("horizon", [0, -1, 1.0, True, None])
def test_horizon_is_refused_when_it_is_no_count(horizon: object) -> None:
    """A horizon is a whole number of at least 1, and True is none."""
    with pytest.raises(ValueError, match=r"^horizon is .*, expected a whole number of heads >= 1$"):
        require_horizon(horizon)


def test_reduction_dtype_is_at_least_float32() -> None:
    """Half precision is widened, double stays double wherever it stands."""
    half, double = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.float64)
    assert [reduction_dtype(half), reduction_dtype(half, double)] == [torch.float32, torch.float64]
