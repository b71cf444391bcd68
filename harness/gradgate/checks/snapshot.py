"""The state of a run as named values, and the first difference between two states, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from gradgate.subjects.contract import Run
from gradgate.watch.difference import Difference as Difference
from gradgate.watch.difference import compare as compare
from gradgate.watch.difference import first_difference as first_difference

Snapshot = Mapping[str, Any]
_RATE = re.compile(r"param_groups\[\d+\]\.(initial_)?lr$")


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


def but_rates(state: Snapshot) -> Snapshot:
    """Without learning rates: whether a schedule goes on behind an update that was skipped is GG607's."""
    return {name: value for name, value in state.items() if not _RATE.search(name)}


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
