"""DDP and FSDP2 on gloo under the recorder, in worlds of one and two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LINE = "weight.detach()[:, 0] = 0.0  # CULPRIT"
FINE = {"clean": [], "bit-equal": True, "faulty": [["inplace_saved", LINE]]}


@pytest.mark.nightly
@pytest.mark.parametrize("world", [1, 2])
def test_watch_names_the_fault_and_nothing_else_when_training_is_distributed(tmp_path: Path, world: int):
    """The clean run is quiet and bit-equal, the planted write is named, on every rank."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "fixtures.distributed_programs", str(rank), str(world), str(tmp_path / "meeting")],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    answers = [json.loads(run.communicate(timeout=120)[0]) for run in runs]
    assert answers == [{"DDP": FINE, "FSDP2": FINE}] * world
