"""A loop that collects a window of batches in front of its update: turns that only collect make no update."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fixtures import collected_windows
from fixtures.check_runs import errors, run_check
from gradgate.core.errors import SubjectError

TWO = {"accumulation": 2}


def test_the_losses_of_a_window_are_those_of_its_batch() -> None:
    """The batch fills the window as often as it takes, and its rows are weighed once."""
    of_one, of_two = (collected_windows.Collected(0, options={"accumulation": count}) for count in (1, 2))
    batch = next(of_one.batches())
    assert torch.allclose(of_one.losses(batch)["total"], of_two.losses(batch)["total"])


def test_a_turn_that_only_collects_has_no_metrics() -> None:
    """What the adapter looks for behind it is not there so far; behind the update it is."""
    run = collected_windows.Collected(0, options=TWO)
    batch = next(run.batches())
    assert run.step(batch) == {}
    assert run.step(batch)["loss"] > 0


@pytest.mark.parametrize(("name", "words"), [("reached", "'reached' so far; it has"), ("number", "'number'; it has")])
def test_a_variable_that_an_updating_turn_does_not_have_is_an_error(name: str, words: str) -> None:
    """It is named, whether no line assigns it or none has so far."""

    class Misread(collected_windows.Collected):
        def step(self, batch: Any) -> dict[str, float]:
            super().step(batch)
            return {"loss": self.local(name)}

    run = Misread(0)
    with pytest.raises(SubjectError, match=words):
        run.step(next(run.batches()))


def test_a_loop_that_never_goes_backward_has_no_losses() -> None:
    """It is asked so often, and no more."""
    run = collected_windows.Collected(0, options={"accumulation": 1000})
    with pytest.raises(SubjectError, match="64 turns without a backward"):
        run.losses(next(run.batches()))


@pytest.mark.parametrize("code", ["GG410", "GG414", "GG607"])
def test_keys_of_accumulation_can_be_listed(code: str) -> None:
    """A window that weighs its rows alike has no finding."""
    subject = collected_windows.subject()
    assert errors(run_check(code, subject, subject.stages[0])) == []


def test_a_window_that_counts_its_last_batch_alone_is_found() -> None:
    """Its update is twice that of one micro-batch."""
    subject = collected_windows.subject(collected_windows.LastCounted)
    (message,) = errors(run_check("GG410", subject, subject.stages[0]))
    assert "come 2 times with accumulation = 2" in message
