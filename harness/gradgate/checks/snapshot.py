"""The state of a run as named values, and the first difference between two states, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.subjects.contract import Run

Snapshot = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two snapshots part.

    Args:
        name: of the value, for example `optimizers[0].state[trunk.weight].exp_avg`.
        text: how far apart, in words and numbers.
        nonfinite: elements of the second state that are NaN or Inf and were finite in the first.
    """

    name: str
    text: str
    nonfinite: int = 0


def named_parameters(run: Run) -> dict[nn.Parameter, str]:
    """All parameters of the run's modules and optimizers with one name each; a tied parameter has its first name."""
    names: dict[nn.Parameter, str] = {}
    for module_name, module in run.modules.items():
        for name, parameter in module.named_parameters():
            names.setdefault(parameter, f"{module_name}.{name}")
    for i, optimizer in enumerate(run.optimizers):
        for g, group in enumerate(optimizer.param_groups):
            for p, parameter in enumerate(group["params"]):
                names.setdefault(parameter, f"optimizers[{i}].param_groups[{g}].params[{p}]")
    return names


def take(run: Run) -> Snapshot:
    """Copies of everything that a step may change: parameters, persistent buffers, optimizer state and settings."""
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in _values(run)}


def first_difference(before: Snapshot, after: Snapshot) -> Difference | None:
    """The first value, in the order of `before`, that is not the same bit for bit; NaN equals NaN, 0.0 is not -0.0."""
    for name, value in before.items():
        if name not in after:
            return Difference(name, "is gone")
        difference = compare(name, value, after[name])
        if difference is not None:
            return difference
    added = next((name for name in after if name not in before), None)
    return None if added is None else Difference(added, "was not there before")


def compare(name: str, before: Any, after: Any) -> Difference | None:
    """How two values of one name differ; None where they are the same bit for bit."""
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)):
        same = type(before) is type(after) and bool(before == after)
        return None if same else Difference(name, f"{before!r} became {after!r}")
    if before.shape != after.shape or before.dtype != after.dtype:
        return Difference(name, f"{_describe(before)} became {_describe(after)}")
    if torch.equal(_bits(before), _bits(after)):
        return None
    return _tensor_difference(name, before, after.to(before.device))


def _tensor_difference(name: str, before: Tensor, after: Tensor) -> Difference:
    changed = int((_bits(before) != _bits(after)).view(before.numel(), -1).any(1).sum())
    nonfinite = int((before.isfinite() & ~after.isfinite()).sum())
    distance = (after.double() - before.double()).abs().nan_to_num(nan=torch.inf).max().item()
    text = f"{changed} of {before.numel()} elements differ, by up to {distance:.3g}"
    return Difference(name, text + (f", {nonfinite} became NaN or Inf" if nonfinite else ""), nonfinite)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _values(run: Run) -> Iterator[tuple[str, Any]]:
    for name, module in run.modules.items():
        yield from _leaves(name, module.state_dict())
    names = named_parameters(run)
    for i, optimizer in enumerate(run.optimizers):
        for g, group in enumerate(optimizer.param_groups):
            settings = {key: value for key, value in group.items() if key != "params"}
            yield from _leaves(f"optimizers[{i}].param_groups[{g}]", settings)
            for parameter in group["params"]:
                yield from _leaves(f"optimizers[{i}].state[{names[parameter]}]", optimizer.state.get(parameter, {}))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _leaves(f"{name}[{i}]", item)
    elif isinstance(value, Tensor | int | float | str | None):
        yield name, value
