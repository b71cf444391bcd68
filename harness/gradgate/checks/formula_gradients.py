"""Gradients of a trainer's number and of its declared formula, by the variables that the formula takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.recorded_calls import Call
from gradgate.subjects.places import Place

ALLOWED = 1e-3  # of the larger norm
NOTHING = 1e-14  # of the direction's norm: what rounding leaves of 0
STOPS = "detach"


def says_what_is_constant(formula: Callable[..., Any]) -> bool:
    """Whether a formula stops a gradient somewhere: then all of its gradients are meant."""
    return STOPS in getattr(getattr(formula, "__code__", None), "co_names", ())


def gradients_apart(
    place: Place, formula: Callable[..., Any], names: list[str], call: Call, *, constants_alone: bool = False
) -> str:
    """What is wrong with the gradients of a number while its function returns, in words; empty: nothing.

    Args:
        place: of the number.
        formula: what it is declared to be.
        names: of the formula's variables.
        call: that ends.
        constants_alone: whether the numbers depart as well, so that only a gradient where none is declared tells more.
    """
    variables = {**call.variables, **call.live}
    inputs = {name: each for name in names if isinstance(each := variables[name], Tensor) and each.requires_grad}
    value = place.tensor(call.variables)
    if not inputs or value is None or not torch.is_grad_enabled():
        return ""
    try:
        expected = torch.as_tensor(formula(**{name: variables[name] for name in names}))
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
        if expected.shape == value.shape:
            direction = direction.masked_fill(expected.isnan(), 0.0)
            expected = expected.nan_to_num()
        ours, theirs = (_by(each, direction, inputs) for each in (value, expected.to(value.dtype)))
    except RuntimeError:  # what backward needs was written over meanwhile: another check's
        return ""
    for name in inputs:
        one, other = ours[name], theirs[name]
        size = max(float(one.norm()), float(other.norm()))
        if (constants_alone and bool(other.any())) or size <= NOTHING * float(direction.norm()):
            continue
        if float((one - other).norm()) > ALLOWED * size:
            told = f"gives `{name}` a gradient of norm {float(one.norm()):.4g}"
            return f"{told}, and by the declared formula {float(other.norm()):.4g}"
    return ""


def _by(value: Tensor, direction: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not value.requires_grad:
        return {name: torch.zeros_like(each) for name, each in inputs.items()}
    total = (value * direction).sum()
    found = torch.autograd.grad(total, list(inputs.values()), retain_graph=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))
