"""The bundled trainer's host memory: the same to the byte in every run, with a flame graph under reports/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradgate.core.errors import GradgateError
from gradgate.core.origin import is_own_code
from gradgate.gates.counters import count
from gradgate.gates.host_memory import flame_graph, host_peak

pytest.importorskip("memray", reason="memray is not installed: pip install 'gradgate[memory]'")
pytestmark = pytest.mark.xdist_group("memray")  # one tracker a process
REPORTS = Path(__file__).parents[2] / "reports" / "memory"


def started(stage: int) -> Callable[[], Any]:
    """A stage's step that has run twice."""
    from gradgate_wmtp import subject

    run = subject().stages[stage].start(0)
    batch = next(run.batches())

    def step() -> None:
        run.step(batch)

    step()
    step()
    return step


@pytest.mark.nightly
@pytest.mark.parametrize("stage", [0, 1], ids=["stage1", "stage2"])
def test_a_step_takes_the_same_host_memory_in_every_run(stage: int, tmp_path: Path):
    """Bit-equal tensor bytes at the peak in two fresh runs, by the same lines."""
    one, other = (host_peak(started(stage), tmp_path / f"{i}.bin", is_own_code) for i in range(2))
    assert (one.tensor_bytes, one.by_line) == (other.tensor_bytes, other.by_line)


@pytest.mark.nightly
def test_the_host_peak_holds_what_operations_hold(tmp_path: Path):
    """What kernels take inside an operation, and the allocator's alignment, make it larger than the recorder's peak."""
    counted = count(started(1), lambda file: None).values["live_peak_bytes"]
    assert isinstance(counted, int)
    assert counted <= host_peak(started(1), tmp_path / "peak.bin", is_own_code).tensor_bytes < 2 * counted


@pytest.mark.nightly
@pytest.mark.parametrize("stage", [0, 1], ids=["stage1", "stage2"])
def test_the_report_has_a_flame_graph(stage: int):
    """A page of its own for each stage, under reports/."""
    recording, page = REPORTS / f"stage{stage + 1}.bin", REPORTS / f"stage{stage + 1}.html"
    peak = host_peak(started(stage), recording, is_own_code)
    flame_graph(recording, page)
    assert peak.tensor_bytes > 0
    assert "<html" in page.read_text(encoding="utf-8")


def test_a_line_that_takes_64_kib_more_is_named(tmp_path: Path):
    """By file and line."""
    import torch

    kept: list[Any] = []

    def step() -> None:
        kept.append(torch.zeros(16_384))

    step()
    peak = host_peak(step, tmp_path / "peak.bin", is_own_code)
    line = step.__code__.co_firstlineno + 1
    assert {Path(place).name: size for place, size in peak.by_line.items()} == {f"test_host_peak.py:{line}": 65_536}


def test_a_step_that_raises_is_not_called_a_broken_recorder(tmp_path: Path):
    """Its error is its own."""

    def step() -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        host_peak(step, tmp_path / "peak.bin", is_own_code)


def test_a_recording_that_is_none_gives_no_page(tmp_path: Path):
    """One line, with memray's own reason."""
    (tmp_path / "peak.bin").write_text("")
    with pytest.raises(GradgateError, match="no flame graph of"):
        flame_graph(tmp_path / "peak.bin", tmp_path / "peak.html")


def test_a_second_recorder_is_refused(tmp_path: Path):
    """memray bears one at a time."""
    with pytest.raises(GradgateError, match="cannot be recorded"):
        host_peak(
            lambda: host_peak(lambda: None, tmp_path / "inner.bin", is_own_code), tmp_path / "outer.bin", is_own_code
        )
