"""GG404 and GG405 on drawn batches: faults that a trainer's own rows never show, with the smallest batch that does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import mini_trainer
from fixtures.check_runs import errors, run_check, stage_of
from fixtures.drawn_faults import DRAWN_FAULTS, OnlyDrawnRun, subject
from fixtures.metric_faults import SOUND, reporting
from fixtures.mini_trainer import MiniBatch
from fixtures.pytest_fixtures import rest_at_night
from gradgate.checks import runner
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Subject

CODES = ("GG404", "GG405")


def outcome_of(code: str, trainer: Subject, stage: str) -> Outcome:
    """One check; GG404 looks at all stages."""
    return run_check(code, trainer, None if code == "GG404" else stage_of(trainer, stage))


def pasted(finding: Finding) -> MiniBatch:
    """The batch that the finding prints."""
    namespace: dict[str, Any] = {}
    exec(finding.detail["reproduce"], namespace)  # noqa: S102 - what the test is about
    batch: MiniBatch = namespace["batch"]
    return batch


@pytest.mark.parametrize("name", DRAWN_FAULTS)
def test_drawn_fault_is_found_with_the_smallest_batch_that_shows_it(name: str) -> None:
    """One row or two, of few tokens; the batch stands in the finding and can be pasted."""
    fault = DRAWN_FAULTS[name]
    finding = outcome_of(fault.code, subject(**fault.parts), fault.stage).findings[0]

    assert f"in stage {fault.stage!r} on a drawn batch of " in finding.message
    assert pasted(finding).valid_BS.numel() <= 6
    assert "MiniBatch(token_BS=torch.tensor([[0" in finding.message


@pytest.mark.parametrize("name", DRAWN_FAULTS)
def test_drawn_fault_is_not_seen_in_the_trainers_own_batches(name: str) -> None:
    """That is what drawing is for."""
    fault = DRAWN_FAULTS[name]
    trainer = mini_trainer.subject(**fault.parts)

    assert [errors(outcome_of(code, trainer, fault.stage)) for code in CODES] == [[], []]


def test_pasted_batch_fails_as_the_finding_says() -> None:
    """The loss of a batch without a label is 0/0."""
    fault = DRAWN_FAULTS["divided-by-nothing"]
    trainer = subject(**fault.parts)
    (finding,) = outcome_of("GG404", trainer, fault.stage).findings
    run = stage_of(trainer, fault.stage).start(0)

    assert not bool(run.losses(pasted(finding))["total"].isfinite())


def test_drawn_fault_names_the_line_that_raises() -> None:
    """Where an index is out of range."""
    fault = DRAWN_FAULTS["second-token-taken-for-granted"]
    finding = outcome_of("GG404", subject(**fault.parts), fault.stage).findings[0]

    assert finding.victim is not None
    assert "value_BS[:, COMMON - 1]" in finding.victim.source


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("seed", rest_at_night(range(20), day=1))
def test_clean_twin_passes_on_drawn_batches(code: str, seed: int) -> None:
    """Rows of one token, of all lengths, garbage or not."""
    trainer = subject()
    for stage in (None,) if code == "GG404" else trainer.stages:
        outcome = run_check(code, trainer, stage, seed)
        assert outcome.findings == ()
        assert outcome.measured["batches_drawn"] > 0


def test_stage_without_formulas_or_strategy_is_told_both() -> None:
    """GG404 says which lines of adapter would enable it."""
    reason = run_check("GG404", reporting(SOUND["all"]), None).not_applicable

    assert "functions=gradgate.Functions()" in reason and "Run.strategy()" in reason


def test_run_with_a_strategy_alone_has_batches_to_train_on() -> None:
    """A strategy is a batch source too: the plain step runs on what it draws."""
    verdict = runner.check_trainer(subject(OnlyDrawnRun), select=["GG001", "GG100"])

    assert [result.status for result in verdict.results] == ["passed"] * len(verdict.results)


def test_gradient_that_is_not_finite_is_found_behind_a_finite_loss() -> None:
    """The square root of an error that is exactly 0."""

    def rooted(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor) -> Tensor:
        return mini_trainer.value_loss(value_BS, target_BS, valid_BS) + ((value_BS * 0).sum(1) ** 2).sqrt().sum()

    found = run_check("GG404", subject(value_loss=rooted, cut_weights=torch.Tensor.detach), None).findings

    assert any(finding.message.startswith("the gradient of `total` is not finite in ") for finding in found)
