"""GlobalState: what a process holds in common, read and put back. Imports torch."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradgate import generators


def _set_device(name: str) -> None:
    # Setting any device, the CPU too, installs a function mode that slows every call; None takes it away again.
    torch.set_default_device(None if name == "cpu" else name)


def _autocast(device: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    def read() -> tuple[bool, torch.dtype]:
        return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def write(value: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, value[0])
        torch.set_autocast_dtype(device, value[1])

    return read, write


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _cudnn() -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _set_cudnn(value: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = value


SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (lambda: str(torch.get_default_device()), _set_device),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (_anomaly, lambda value: torch.set_anomaly_enabled(*value)),
    "deterministic algorithms": (_deterministic, _set_deterministic),
    "CPU autocast": _autocast("cpu"),
    "CUDA autocast": _autocast("cuda"),
    "float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cuDNN benchmark and determinism": (_cudnn, _set_cudnn),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "working folder": (Path.cwd, os.chdir),
}


@dataclass(frozen=True)
class GlobalState:
    """A snapshot.

    Args:
        settings: value by name, the names of `SETTINGS`.
        rng: states of torch's, Python's and numpy's generators.
    """

    settings: Mapping[str, Any]
    rng: generators.States

    @classmethod
    def now(cls) -> GlobalState:
        """Read everything."""
        return cls({name: read() for name, (read, _) in SETTINGS.items()}, generators.states())

    def restore(self) -> None:
        """Put everything back; settings that did not change are not touched."""
        for name, (read, write) in SETTINGS.items():
            if read() != self.settings[name]:
                write(self.settings[name])
        generators.put_back(self.rng)

    def changes(self) -> list[str]:
        """What differs now, settings alone: `default dtype: torch.float32 -> torch.float64`."""
        now = {name: read() for name, (read, _) in SETTINGS.items()}
        return [f"{name}: {old} -> {now[name]}" for name, old in self.settings.items() if now[name] != old]


def seed_everything(seed: int) -> None:
    """Seed torch's, Python's and numpy's global generators."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # torch.manual_seed keeps a stack trace for each device that may come, 5 ms and a little memory a call
        torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
