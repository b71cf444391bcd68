"""The bundled trainer's real steps: plain first, then under anomaly detection, then with every saved tensor watched."""

from __future__ import annotations

from itertools import islice
from math import isfinite

import pytest
import torch

from fixtures.version_counters import saved_tensors_watched
from gradgate.subjects.contract import Run, Stage
from gradgate_wmtp import subject

STAGES = {stage.name: stage for stage in subject().stages}
STEPS = 3


@pytest.fixture(params=["stage1", "stage2"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """Each stage of the bundled trainer."""
    return STAGES[request.param]


def steps(run: Run) -> list[dict[str, float]]:
    """Metrics of the run's first steps."""
    return [dict(run.step(batch)) for batch in islice(run.batches(), STEPS)]


def not_finite(run: Run) -> list[str]:
    """Parameters and buffers with a NaN or Inf."""
    values = (
        (f"{name}.{key}", value) for name, module in run.modules.items() for key, value in module.state_dict().items()
    )
    return [name for name, value in values if not bool(value.isfinite().all())]


def test_step_passes_without_any_hook(stage: Stage) -> None:
    """The plain step comes first: under hooks PyTorch would not check versions."""
    metrics = steps(stage.start(0))

    assert len(metrics) == STEPS


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_step_passes_under_anomaly_detection(stage: Stage) -> None:
    """No backward gives a NaN, and no saved tensor was overwritten."""
    with torch.autograd.detect_anomaly():
        metrics = steps(stage.start(0))

    assert len(metrics) == STEPS


def test_saved_tensors_are_as_they_were_when_backward_takes_them(stage: Stage) -> None:
    """Neither a version counter nor the content of a saved tensor moves between forward and backward."""
    run = stage.start(0)
    with saved_tensors_watched() as seen:
        steps(run)

    assert (seen.moved, seen.rewritten) == ([], [])
    assert seen.unpacked > 0


def test_step_is_the_same_with_saved_tensors_watched(stage: Stage) -> None:
    """Watching changes no number."""
    plain = steps(stage.start(0))
    with saved_tensors_watched():
        watched = steps(stage.start(0))

    assert [m["loss"] for m in watched] == [m["loss"] for m in plain]


def test_step_leaves_no_nan(stage: Stage) -> None:
    """Metrics, parameters and buffers stay finite."""
    run = stage.start(0)
    metrics = steps(run)

    assert [name for step in metrics for name, value in step.items() if not isfinite(value)] == []
    assert not_finite(run) == []
