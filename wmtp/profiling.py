"""A profile of the first steps of each stage, where one is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from wmtp.errors import CheckpointError

PROFILED_STEPS = 3


@contextmanager
def profiler(folder: Path | None, device: torch.device, stage: str, steps: int) -> Iterator[Callable[[], None]]:
    """Profile the first steps of a stage into `folder/STAGE.trace.json`, or do nothing.

    Args:
        folder: gets a trace for chrome://tracing, Perfetto or TensorBoard; None: no profile.
        device: CUDA activity is recorded where there is any.
        stage: names the trace.
        steps: how many are to come: of one or two the last is recorded, of more those behind the first two.

    Yields:
        A function to call after each step.

    Raises:
        CheckpointError: the trace could not be written; nothing is left of it.
    """
    if folder is None:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with warnings.catch_warnings():  # that a single step is a cold one
        warnings.simplefilter("ignore")
        plan = schedule(wait=int(steps > 2), warmup=int(steps > 1), active=PROFILED_STEPS, repeat=1)
    path = folder / f"{stage}.trace.json"
    with profile(activities=activities, schedule=plan, on_trace_ready=lambda inner: _write(inner, path)) as inner:
        yield inner.step


def _write(inner: profile, path: Path) -> None:
    """torch logs a disk that is full, and goes on: so look at what it wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inner.export_chrome_trace(str(path))
    if not path.is_file() or not path.read_bytes().rstrip().endswith(b"}"):
        for leftover in path.parent.glob(f"{path.name}*"):
            leftover.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: could not be written: is the disk full?")
