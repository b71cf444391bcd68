"""Profiles: a trace of a stage's first steps where one is asked for, and nothing otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fixtures.small_runs import CPU
from wmtp.profiling import PROFILED_STEPS, profiler


def test_profile_holds_the_operations_of_the_first_steps(tmp_path: Path) -> None:
    """One to wait for, one to warm up, then as many as are recorded; later ones cost nothing."""
    with profiler(tmp_path / "p", CPU) as on_step:
        for _ in range(PROFILED_STEPS + 4):
            torch.ones(8, 8) @ torch.ones(8, 8)
            on_step()
    (trace,) = (tmp_path / "p").glob("*.json*")
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("aten::mm") == PROFILED_STEPS


def test_profile_is_not_made_when_nobody_asks(tmp_path: Path) -> None:
    """Without a folder the steps go by."""
    with profiler(None, CPU) as on_step:
        on_step()
    assert list(tmp_path.iterdir()) == []
