"""GG502 and GG503: stages that disagree and rewards that are not one number a row turn their check red."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import mini_trainer
from fixtures.check_runs import errors, red, run_check
from fixtures.mini_trainer import MiniBatch, MiniRun
from fixtures.pytest_fixtures import rest_at_night
from fixtures.reward_faults import (
    REWARD_FAULTS,
    TARGET_FAULTS,
    disagreeing,
    dropout_left_on,
    last_real,
    scored,
    without_targets,
)
from gradgate.checks.raised import SubjectRaisedError
from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run

CLEAN = mini_trainer.subject()
NEIGHBOURS = ("GG100", "GG405", "GG408")
WAYS = {
    "dropout-left-on": ("with other random numbers",),
    "read-at-the-last-column": ("with 3 more positions of padding",),
    "whitened-over-the-batch": ("twice in one batch", "alone, row 0", "alone, row 1", "alone, row 2"),
    "matched-by-place": ("in reversed order", "twice in one batch", "alone, row 1", "alone, row 2"),
}


def started(run: type[MiniRun]) -> Any:
    """A `start` of value-stage runs of one's own class."""
    return lambda seed, **_: run("value", mini_trainer.Parts(), seed, torch.float64, "cpu")


@pytest.mark.parametrize("name", WAYS)
def test_gg503_names_the_way_in_which_a_row_gets_another_reward(name: str) -> None:
    """And no neighbour sees it: the loss takes what it is given."""
    subject = scored(REWARD_FAULTS[name])
    outcome = run_check("GG503", subject, subject.stages[0])

    assert set(WAYS[name]) <= {finding.detail["way"] for finding in outcome.findings}
    assert all("allowed: " in message for message in errors(outcome))
    assert red(subject, subject.stages[0], NEIGHBOURS) == []


def test_gg503_says_of_random_rewards_only_that_they_are_random() -> None:
    """Alone, together and padded they differ as well, which says nothing: without dropout they do not."""
    subject = scored(REWARD_FAULTS["dropout-left-on"])
    outcome = run_check("GG503", subject, subject.stages[0])

    assert {finding.detail["way"] for finding in outcome.findings} == {"with other random numbers"}


def test_gg503_finds_what_lies_behind_dropout() -> None:
    """A reward that dropout makes random and the batch shifts has both findings."""
    subject = scored(lambda model, batch: dropout_left_on(model, batch) + 0.1 * torch.arange(len(batch.token_BS)))
    outcome = run_check("GG503", subject, subject.stages[0])

    assert {finding.detail["way"] for finding in outcome.findings} >= {"with other random numbers", "in reversed order"}


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_gg504_names_a_reward_that_is_one_number_for_all_rows(value: float) -> None:
    """Also one that is no number; the clean twin's rewards differ. No corpus is needed."""
    subject = scored(lambda _, batch: torch.full((len(batch.token_BS),), value))
    found = run_check("GG504", subject, subject.stages[0])
    clean = scored(last_real)

    assert "`reward` gives all" in errors(found)[0]
    assert run_check("GG504", clean, clean.stages[0]).findings == ()


def test_gg503_takes_a_reward_that_is_no_number_for_another() -> None:
    """NaN is not within any bound."""
    subject = scored(REWARD_FAULTS["undefined-for-short-rows"])
    outcome = run_check("GG503", subject, subject.stages[0])

    assert errors(outcome) != []
    assert outcome.measured["distance"] == {"reward": torch.inf}


@pytest.mark.parametrize("seed", rest_at_night(range(3), day=1))
def test_gg503_passes_the_clean_twin(seed: int) -> None:
    """Alone, together, padded and reordered."""
    subject = scored(last_real)
    outcome = run_check("GG503", subject, subject.stages[0], seed)

    assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")
    assert 0 < outcome.allowed["distance"]["reward"] < 1e-9


def test_gg503_allows_nothing_where_no_module_runs_and_rewards_are_whole_numbers() -> None:
    """A verifiable reward has no roundoff."""
    subject = scored(lambda _, batch: (batch.token_BS * batch.valid_BS).sum(1))
    outcome = run_check("GG503", subject, subject.stages[0])

    assert (outcome.findings, outcome.allowed) == ((), {"distance": {"reward": 0.0}})


def test_gg503_looks_at_other_random_numbers_alone_where_rows_cannot_be_selected() -> None:
    """What the run cannot do is left out."""

    class Fixed(MiniRun):
        select_rows, pad = Run.select_rows, Run.pad

    subject = scored(REWARD_FAULTS["matched-by-place"], Fixed)

    assert run_check("GG503", subject, subject.stages[0]).findings == ()


@pytest.mark.parametrize(
    ("found", "message"),
    [(torch.zeros(8), "returned a Tensor"), ({}, "returned a dict"), ({"r": torch.zeros(3)}, "is \\[3\\], expected")],
)
def test_gg503_refuses_rewards_of_another_make(found: Any, message: str) -> None:
    """By name, one number a row."""

    class Other(MiniRun):
        def rewards(self, batch: MiniBatch) -> Any:
            return found

    subject = scored(last_real, MiniRun)
    stage = replace(
        subject.stages[0], start=lambda seed, **_: Other("value", mini_trainer.Parts(), seed, torch.float64, "cpu")
    )

    with pytest.raises(SubjectError, match=message):
        run_check("GG503", subject, stage)


@pytest.mark.parametrize("name", TARGET_FAULTS)
def test_gg502_finds_stages_that_regress_on_different_functions(name: str) -> None:
    """With both stages, both numbers and the place."""
    subject = disagreeing(TARGET_FAULTS[name])
    outcome = run_check("GG502", subject, None)
    (message,) = errors(outcome)

    assert message.startswith("stages 'value' and 'tokens' regress on ")
    assert "allowed: " in message
    assert outcome.measured["distance"] > outcome.allowed["distance"]
    assert [red(subject, stage, NEIGHBOURS) for stage in subject.stages] == [[], []]


@pytest.mark.parametrize("seed", rest_at_night(range(3), day=1))
def test_gg502_passes_the_clean_twin(seed: int) -> None:
    """One function in both stages."""
    outcome = run_check("GG502", CLEAN, None, seed)

    assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")
    assert outcome.measured["cases"] > 10


def test_gg502_does_not_apply_to_one_stage_with_targets() -> None:
    """There is nothing to compare it with."""
    subject = replace(CLEAN, stages=[CLEAN.stages[0], without_targets(CLEAN.stages[1])])

    assert "only stage 'value' has value targets" in run_check("GG502", subject, None).not_applicable


def test_gg502_refuses_targets_of_another_shape() -> None:
    """One number a position."""
    with pytest.raises(SubjectError, match="gave no tensor of shape"):
        run_check("GG502", mini_trainer.subject(targets=lambda value_BS, *_: value_BS.mean()), None)


def test_gg502_tells_the_subjects_error_from_its_own() -> None:
    """What value_targets raises is the stage's."""

    def broken(*_: Any) -> Tensor:
        raise ValueError("no returns")

    with pytest.raises(SubjectRaisedError, match=r"value_targets\(\) of stage 'value' raised ValueError: no returns"):
        run_check("GG502", mini_trainer.subject(targets=broken), None)


def test_rewards_by_name_are_judged_each_for_itself() -> None:
    """One reward that wavers does not accuse the other."""

    class Two(MiniRun):
        def rewards(self, batch: MiniBatch) -> Mapping[str, Tensor]:
            return {"steady": batch.reward_B, "wavering": torch.rand(len(batch.reward_B))}

    subject = scored(last_real)
    stage = replace(
        subject.stages[0], start=lambda seed, **_: Two("value", mini_trainer.Parts(), seed, torch.float64, "cpu")
    )

    assert {finding.detail["reward"] for finding in run_check("GG503", subject, stage).findings} == {"wavering"}
