"""Names the first tensor that is not finite, after a step has been refused. Costs one more forward pass, only then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn


def first_nonfinite(
    model: nn.Module, inputs: Mapping[str, Tensor], results: Mapping[str, Tensor], forward: Callable[[], object]
) -> str | None:
    """Where the first NaN or Inf is on the way forward, in the order of the data: inputs, parameters, modules, results.

    Args:
        model: its modules are watched while `forward` runs.
        inputs: tensors that the step was given, by name.
        results: filled by `forward` with the tensors on the way, by name.
        forward: runs the step's forward pass once more.

    Returns:
        Such as "reward_BS" or "the output of trunk.blocks.1.mlp_norm"; None where every tensor is finite.
    """
    for name, tensor in inputs.items():
        if is_nonfinite(tensor):
            return name
    for name, parameter in model.named_parameters():
        if is_nonfinite(parameter):
            return f"parameter {name}"
    bad_module = _first_bad_module(model, forward)
    if bad_module is not None:
        return f"the output of {bad_module}"
    for name, tensor in results.items():
        if is_nonfinite(tensor):
            return name
    return None


def first_nonfinite_gradient(model: nn.Module) -> str:
    """Which gradient of a refused step went bad first, such as "the gradient of heads.project.weight"."""
    # Backward runs from the last parameter to the first, so the last bad one is the first that went bad.
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and is_nonfinite(parameter.grad):
            return f"the gradient of {name}"
    return "no single tensor: every one is finite, their sum is not"


def is_nonfinite(tensor: Tensor) -> bool:
    """Whether a floating tensor holds a NaN or an Inf."""
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


def _first_bad_module(model: nn.Module, forward: Callable[[], object]) -> str | None:
    bad: list[str] = []

    def watcher(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bad and is_nonfinite(output):
                bad.append(name)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(watcher(name)).remove)
        forward()
    return bad[0] if bad else None
