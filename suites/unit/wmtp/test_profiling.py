"""Profiles: a trace of a stage's first steps where one is asked for, and nothing otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fixtures.damaged_files import file_limit
from fixtures.small_runs import CPU
from wmtp.errors import CheckpointError
from wmtp.profiling import PROFILED_STEPS, profiler


def multiply(folder: Path | None, steps: int) -> None:
    """A stage of so many steps, each one matrix product."""
    with profiler(folder, CPU, "stage2", steps) as on_step:
        for _ in range(steps):
            torch.ones(8, 8) @ torch.ones(8, 8)
            on_step()


@pytest.mark.parametrize(("steps", "recorded"), [(1, 1), (2, 1), (3, 1), (4, 2), (PROFILED_STEPS + 6, PROFILED_STEPS)])
def test_profile_holds_the_operations_of_the_first_steps(steps: int, recorded: int, tmp_path: Path) -> None:
    """One to wait for, one to warm up, then as many as are recorded; later ones cost nothing, and few are enough."""
    multiply(tmp_path / "p", steps)
    names = [
        event.get("name") for event in json.loads((tmp_path / "p" / "stage2.trace.json").read_text())["traceEvents"]
    ]
    assert names.count("aten::mm") == recorded


@pytest.mark.parametrize("limit", [100, 6_000])
def test_profile_is_an_error_when_the_disk_is_full(limit: int, tmp_path: Path) -> None:
    """torch only logs it; nothing half-written is left."""
    with file_limit(limit), pytest.raises(CheckpointError, match=r"stage2.trace.json: could not be written"):
        multiply(tmp_path / "p", 5)
    assert list((tmp_path / "p").iterdir()) == []


def test_profile_is_not_made_when_nobody_asks(tmp_path: Path) -> None:
    """Without a folder the steps go by."""
    multiply(None, 1)
    assert list(tmp_path.iterdir()) == []
