"""The bundled trainer's runs of one size, on which GG703 measures how cost grows."""

from __future__ import annotations

from typing import Any

import pytest

from gradgate_wmtp.adapter import build_subject

SUBJECT = build_subject()
CASES = [(stage, axis) for stage in SUBJECT.stages for axis in stage.scaling or {}]


@pytest.mark.parametrize(("stage", "axis"), CASES, ids=[f"{stage.name}-{axis}" for stage, axis in CASES])
def test_run_has_the_size_that_is_asked_for(stage: Any, axis: str):
    """One batch for ever, as long, as wide and as far-sighted as asked, and the stage's own step takes it."""
    scaling = stage.scaling[axis]
    run = scaling.start(2 * scaling.smallest, 0)
    batches = run.batches()
    batch = next(batches)
    one = batch[0] if stage.name == "stage2" else batch
    found = {"B": one.valid_BS.shape[0], "S": one.valid_BS.shape[1]}
    found["H"] = one.label_BSH.shape[2] if stage.name == "stage2" else 0

    assert found[axis] == 2 * scaling.smallest
    assert next(batches) is batch
    assert run.step(batch)["skipped"] == 0.0
