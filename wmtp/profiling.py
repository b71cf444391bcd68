"""A profile of the first steps, where one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

PROFILED_STEPS = 3


@contextmanager
def profiler(folder: Path | None, device: torch.device) -> Iterator[Callable[[], None]]:
    """Profile the first steps of a stage into a folder, or do nothing.

    Args:
        folder: gets a trace for TensorBoard or chrome://tracing; None: no profile.
        device: CUDA activity is recorded where there is any.

    Yields:
        A function to call after each step.
    """
    if folder is None:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    steps = schedule(wait=1, warmup=1, active=PROFILED_STEPS, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=tensorboard_trace_handler(str(folder))) as inner:
        yield inner.step
