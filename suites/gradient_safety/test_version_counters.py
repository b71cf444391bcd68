"""The watching of saved tensors, on steps that are known to be good or bad."""

from __future__ import annotations

from itertools import islice

import pytest

from fixtures.mini_faults import FAULTS
from fixtures.mini_trainer import subject
from fixtures.version_counters import SavedTensors, saved_tensors_watched
from gradgate.subjects.contract import Subject


def watched_step(trainer: Subject) -> SavedTensors:
    """One step of the token stage."""
    run = trainer.stages[1].start(0)
    with saved_tensors_watched() as seen:
        for batch in islice(run.batches(), 1):
            run.step(batch)
    return seen


def test_watching_finds_nothing_in_a_clean_step() -> None:
    """Every tensor that was saved is taken, unchanged."""
    seen = watched_step(subject())

    assert (seen.moved, seen.rewritten) == ([], [])
    assert seen.unpacked > 10


def test_watching_finds_an_overwritten_tensor_that_pytorch_under_hooks_does_not() -> None:
    """The hooks make the version check that they switch off."""
    seen = watched_step(FAULTS["softmax-zeroed-in-place"].subject())

    assert seen.moved == ["[8, 8, 2]: version 0 became 1"]


@pytest.mark.parametrize("name", ["softmax-zeroed-through-data", "softmax-zeroed-through-numpy"])
def test_watching_finds_a_write_that_moves_no_version(name: str) -> None:
    """The content is compared where the version says nothing."""
    seen = watched_step(FAULTS[name].subject())

    assert (seen.moved, seen.rewritten) == ([], ["[8, 8, 2] at version 0"])
