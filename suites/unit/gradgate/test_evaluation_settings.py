"""GG519 on evaluations whose numbers depend on settings of the training."""

from __future__ import annotations

import pytest

from fixtures.check_runs import run_check
from fixtures.evaluation_faults import blended, drawn, evaluated, over_all
from gradgate_wmtp.adapter import build_subject

KEYS = ["label_smoothing", "policy.blend", "optim.warmup_steps", "grad_accum", "lr", "weight_decay"]


@pytest.mark.parametrize("key", KEYS)
def test_evaluation_that_follows_a_setting_of_the_training_is_told_of(key: str) -> None:
    """By the number that changes and the key, as a warning: a report on held-out rows may be meant so."""
    subject = evaluated(key, evaluation=blended)
    (finding,) = run_check("GG519", subject, subject.stages[0]).findings
    assert finding.message.startswith("evaluate() says loss = ") and f"with {key} = 5" in finding.message
    assert finding.severity == "warning" and finding.detail["metric"] == "loss"


@pytest.mark.parametrize("key", KEYS)
def test_evaluation_of_parameters_and_rows_alone_passes(key: str) -> None:
    """Whatever the training does."""
    subject = evaluated(key, evaluation=over_all)
    outcome = run_check("GG519", subject, subject.stages[0])
    assert outcome.findings == () and outcome.measured["compared"] == 1


@pytest.mark.parametrize("key", ["tau", "value_coef", "batch_size", "smoothing_window", "blended"])
def test_settings_that_may_be_part_of_what_is_measured_are_left_alone(key: str) -> None:
    """The reason says which would not be."""
    subject = evaluated(key, evaluation=blended)
    assert "`label_smoothing`" in run_check("GG519", subject, subject.stages[0]).not_applicable


def test_evaluation_that_draws_says_nothing_of_settings() -> None:
    """Two seeds give two evaluations."""
    subject = evaluated("lr", evaluation=drawn)
    assert "draws random numbers" in run_check("GG519", subject, subject.stages[0]).inconclusive


@pytest.mark.parametrize("number", [0, 1])
def test_bundled_trainers_evaluation_follows_no_setting(number: int) -> None:
    """Of either stage."""
    subject = build_subject()
    outcome = run_check("GG519", subject, subject.stages[number])
    assert outcome.findings == () and outcome.measured["compared"] > 0
