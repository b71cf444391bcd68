"""What a save wrote, as tensors, for trainers that have no load: which of a run's numbers are in its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.snapshot import Snapshot

ROUNDING = 1e-2  # weights may be saved in 16 bits


def tensors_in(folder: Path) -> list[Tensor]:
    """All tensors in the files below a folder that torch or safetensors can read."""
    return [tensor for path in sorted(folder.rglob("*")) if path.is_file() for tensor in _read(path)]


def missing(state: Snapshot, before: Snapshot, saved: list[Tensor]) -> tuple[dict[str, list[str]], int]:
    """The tensors that training changed and that no file holds, by what they belong to.

    Args:
        state: at the save.
        before: at the start.
        saved: from `tensors_in`.

    Returns:
        Module, or optimizer, -> names; and how many tensors were found in the files.
    """
    lost: dict[str, list[str]] = {}
    found = 0
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0 or _same(value, before.get(name)):
            continue
        if any(_alike(value, other) for other in saved):
            found += 1
        else:
            lost.setdefault(name.partition(".")[0], []).append(name)
    return lost, found


def _read(path: Path) -> Iterator[Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=False)  # the subject wrote it a moment ago
    except Exception:  # a log, a JSON, a format of its own
        return
    yield from _leaves(content)


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif hasattr(value, "state_dict"):
        yield from _leaves(value.state_dict())


def _same(value: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and value.shape == other.shape and bool(torch.equal(value, other))


def _alike(value: Tensor, other: Tensor) -> bool:
    if value.numel() != other.numel() or not other.is_floating_point():
        return False
    ours, theirs = value.double().flatten(), other.double().flatten()
    return bool(torch.allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING * float(ours.abs().max())))
