"""Blame: the first tensor that is not finite, in the order in which the data goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wmtp.nonfinite import first_nonfinite, first_nonfinite_gradient, is_nonfinite

NAN = float("nan")


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))


def blame(model: nn.Module, x: Tensor, results: dict[str, Tensor]) -> str | None:
    return first_nonfinite(model, {"x": x}, results, lambda: model(x))


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.tensor([1.0, NAN]), True),
        (torch.tensor([float("inf")], dtype=torch.float16), True),
        (torch.tensor([1.0]), False),
        (torch.tensor([1]), False),
        (torch.zeros(0), False),
    ],
)
def test_nonfinite_is_a_floating_tensor_with_a_nan_or_inf(tensor: Tensor, expected: bool) -> None:
    """Whole numbers and empty tensors are finite."""
    assert is_nonfinite(tensor) == expected


def test_blame_goes_to_the_input_before_anything_else() -> None:
    """A NaN that came in is named as it came in."""
    assert blame(chain(), torch.tensor([[NAN, 1.0]]), {"loss": torch.tensor(NAN)}) == "x"


def test_blame_goes_to_the_first_module_whose_output_is_bad() -> None:
    """Later ones only pass it on; the hooks are gone afterwards."""
    model = chain()
    model[1].register_forward_hook(lambda _m, _i, out: out / 0)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert blame(model, torch.ones(1, 2), {}) == "the output of 1"
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_blame_goes_to_results_when_every_module_is_good() -> None:
    """What was computed outside modules is named in the order in which it was recorded."""
    results = {"value": torch.tensor(1.0), "weight": torch.tensor(NAN), "loss": torch.tensor(NAN)}
    assert blame(chain(), torch.ones(1, 2), results) == "weight"


def test_blame_is_none_when_all_is_finite() -> None:
    """Then it must have been a gradient."""
    assert blame(chain(), torch.ones(1, 2), {"loss": torch.tensor(1.0)}) is None


def test_blame_goes_to_the_gradient_that_backward_made_first() -> None:
    """Backward runs from the last layer to the first."""
    model = chain()
    model[2].weight.register_hook(lambda grad: grad * NAN)
    model[0].weight.register_hook(lambda grad: grad * NAN)
    model(torch.ones(1, 2)).sum().backward()
    assert first_nonfinite_gradient(model) == "the gradient of 2.weight"
    model.zero_grad()
    assert first_nonfinite_gradient(model).startswith("no single tensor")
