"""GG424 on keys that are to change nothing but cost."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace

import pytest
from torch import Tensor

from fixtures.check_runs import errors, run_check
from fixtures.neutral_faults import (
    BLOCK_FAULTS,
    LOSS_FAULTS,
    Block,
    Blocks,
    blocks,
    cut,
    left_out,
    other_masks,
    plainly,
)
from gradgate.subjects.contract import Stage, Subject
from gradgate_wmtp.adapter import build_subject


@pytest.mark.parametrize("name", BLOCK_FAULTS)
def test_recomputation_that_changes_the_result_is_found(name: str) -> None:
    """The key, with what it was moved beside, and how far apart is allowed."""
    subject = blocks(block=BLOCK_FAULTS[name])
    (message,) = errors(run_check("GG424", subject, subject.stages[0]))

    assert "recompute = 'on', which is to change nothing" in message and "; allowed: " in message
    assert ("dropout = 0.5" in message) and ("gradient of `" in message) is (name != "left-out")


@pytest.mark.parametrize("name", LOSS_FAULTS)
def test_form_of_a_loss_that_is_another_loss_is_found(name: str) -> None:
    """Each key is moved by itself."""
    subject = blocks(loss=LOSS_FAULTS[name])
    (message,) = errors(run_check("GG424", subject, subject.stages[0]))

    assert "loss = 'chunked', which is to change nothing: the loss " in message and "; allowed: " in message


def test_recomputation_that_runs_nothing_again_is_found() -> None:
    """A key that saves no memory; of one that does not say so by its name it is told as a warning."""
    subject = blocks(block=plainly)
    renamed = replace(subject.stages[0], neutral={"kernel": ("off", "on")})
    told = [run_check("GG424", subject, stage).findings[0] for stage in (subject.stages[0], renamed)]

    assert [finding.severity for finding in told] == ["error", "warning"]
    assert "recompute = 'on' does the " in told[0].message and "no effect at all" in told[0].message


def test_key_of_the_data_that_acts_where_batches_are_made_has_its_effect_there() -> None:
    """The one batch on which the losses are compared shows nothing of it."""

    class Shuffled(Blocks):
        def batches(self) -> Iterator[Tensor]:
            turned = self.options.get("order") == "turned"
            return (batch.flip(0) if turned else batch for batch in super().batches())

    subject = Subject("shuffled", [Stage("rows", Shuffled, neutral={"order": ("kept", "turned")})])
    outcome = run_check("GG424", subject, subject.stages[0])

    assert (outcome.findings, outcome.measured["compared"]) == ((), 1)


def test_keys_that_change_nothing_pass() -> None:
    """The clean twin: blocks that are run again with their masks, and sums of chunks."""
    subject = blocks()
    outcome = run_check("GG424", subject, subject.stages[0])

    assert (outcome.findings, outcome.measured) == ((), {"differing": 0, "compared": 4})


@pytest.mark.parametrize(("block", "line"), [(cut, 2), (other_masks, 2), (left_out, None)])
def test_the_line_is_named(block: Block, line: int | None) -> None:
    """The one that cuts, or that hands a block over without its generator; none for what is not run at all."""
    subject = blocks(block=block)
    (finding,) = run_check("GG424", subject, subject.stages[0]).findings

    expected = None if line is None else inspect.getsourcelines(block)[1] + line
    assert (finding.culprit.line if finding.culprit else None) == expected


def test_runs_of_other_parameters_are_not_compared() -> None:
    """A key that changes a shape is not neutral, and nothing is alleged of it."""
    subject = blocks(width=4)
    stage = replace(subject.stages[0], neutral={"recompute": ("off", "on")})

    assert "other names or shapes with recompute = 'on'" in run_check("GG424", subject, stage).inconclusive


def test_bundled_trainer_recomputes_what_it_computed() -> None:
    """Of Stage 2, with dropout and without."""
    subject = build_subject()
    outcome = run_check("GG424", subject, subject.stages[1])

    assert (outcome.findings, outcome.measured["compared"]) == ((), 2)
