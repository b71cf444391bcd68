"""Witnesses: what a subject computes on a given input. They tell an edit without any effect from one unnoticed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.subjects.contract import Run, Stage, Subject

STEPS = 4


def observe(witness: str, subject: Subject) -> Any:
    """What a witness sees.

    Args:
        witness: `step`: metrics, gradients, parameters and learning rates of a few steps of each stage; `resume`: of
            steps behind a save and a load; else Python that leaves a value in `seen`.
        subject: the trainer, edited or not.

    Returns:
        Dicts, lists and tuples of tensors and plain values.
    """
    if witness == "step":
        return {stage.name: _steps(stage.start(0)) for stage in subject.stages}
    if witness == "resume":
        return {stage.name: _resumed(stage) for stage in subject.stages}
    names: dict[str, Any] = {"torch": torch, "subject": subject}
    exec(compile(witness, "<witness>", "exec"), names)  # noqa: S102 - the fault catalogue is the user's own code
    return names["seen"]


def differ(one: Any, other: Any) -> str:
    """Where two observations first differ, bit for bit; empty where they are the same."""
    here, there = list(_leaves("", one)), list(_leaves("", other))
    if [name for name, _ in here] != [name for name, _ in there]:
        return "what is there to see"
    changed = (name for (name, value), (_, before) in zip(here, there, strict=True) if not _same(value, before))
    return next((name.lstrip(".") or "what it computes" for name in changed), "")


def _steps(run: Run) -> Any:
    batches = run.batches()
    metrics = [dict(run.step(next(batches))) for _ in range(STEPS)]
    return {"metrics": metrics, "state": _state(run)}


def _resumed(stage: Stage) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        first = stage.start(0)
        batches = first.batches()
        for _ in range(STEPS):
            first.step(next(batches))
        first.save(Path(folder))
        second = stage.start(1)
        second.load(Path(folder))
        return _steps(second)


def _state(run: Run) -> Any:
    named = [
        (f"{name}.{inner}", parameter)
        for name, module in run.modules.items()
        for inner, parameter in module.named_parameters()
    ]
    return {
        "parameters": {name: parameter.detach().clone() for name, parameter in named},
        "gradients": {name: None if one.grad is None else one.grad.clone() for name, one in named},
        "rates": [group["lr"] for optimizer in run.optimizers for group in optimizer.param_groups],
    }


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}", part)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _leaves(f"{name}[{number}]", part)
    else:
        yield name, value


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return (
            value.dtype == other.dtype
            and value.shape == other.shape
            and bool(torch.equal(torch.nan_to_num(value, nan=0.125), torch.nan_to_num(other, nan=0.125)))
        )
    if isinstance(value, float) and isinstance(other, float) and math.isnan(value) and math.isnan(other):
        return True
    return bool(value == other)
