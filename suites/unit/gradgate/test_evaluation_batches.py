"""GG428 on evaluations whose numbers depend on how many rows a batch has."""

from __future__ import annotations

import pytest

from fixtures.check_runs import errors, run_check
from fixtures.evaluation_faults import EVALUATION_FAULTS, drawn, dropping, evaluated, mean_of_means, over_all
from gradgate.subjects.contract import Subject
from gradgate.subjects.settings import options_of
from gradgate_wmtp.adapter import build_subject


def found(subject: Subject, number: int = 0) -> list[tuple[str, str]]:
    """Severity and message of each finding."""
    return [(each.severity, each.message) for each in run_check("GG428", subject, subject.stages[number]).findings]


@pytest.mark.parametrize("name", EVALUATION_FAULTS)
def test_evaluation_that_changes_with_its_batches_is_found(name: str) -> None:
    """By the metric, its two numbers and the key that was moved."""
    subject = evaluated(evaluation=EVALUATION_FAULTS[name])

    messages = errors(run_check("GG428", subject, subject.stages[0]))

    assert messages != []
    assert all(told.startswith("evaluate() says loss = ") and "; allowed: 0.001" in told for told in messages)
    assert "with eval.batch_size = " in messages[0]


@pytest.mark.parametrize("key", ["eval.batch_size", "batch_size"])
def test_evaluation_over_all_rows_passes(key: str) -> None:
    """With any size of its batches, and one that does not divide the rows; how many they are may change."""
    subject = evaluated(key)
    outcome = run_check("GG428", subject, subject.stages[0])

    assert (outcome.findings, outcome.measured["compared"]) == ((), 2)
    assert outcome.measured["relative_change"] < 1e-5


def test_key_of_the_training_is_told_as_a_warning_where_the_source_is_not_known() -> None:
    """Another evaluation may look at so many batches, and not at so many rows."""
    subject = evaluated("batch_size", evaluation=EVALUATION_FAULTS["mean-of-means"])

    assert {severity for severity, _ in found(subject)} == {"warning"}


def test_evaluation_that_draws_is_inconclusive() -> None:
    """Two seeds give two evaluations."""
    subject = evaluated(evaluation=drawn)

    assert "draws random numbers" in run_check("GG428", subject, subject.stages[0]).inconclusive


def test_dropout_that_is_on_hides_no_mean_of_means() -> None:
    """That it drops is another check's; here it keeps everything."""
    faulty, clean = (evaluated(evaluation=dropping(each)) for each in (mean_of_means, over_all))

    assert errors(run_check("GG428", faulty, faulty.stages[0])) != []
    assert run_check("GG428", clean, clean.stages[0]).findings == ()


def test_key_that_is_no_size_of_a_batch_is_not_moved() -> None:
    """Nothing to look at, and the reason says which key would be."""
    subject = evaluated("eval.rate")

    assert "`eval_batch_size`" in run_check("GG428", subject, subject.stages[0]).not_applicable


@pytest.mark.parametrize("key", ["eval_batch_size", "per_device_eval_batch_size", "val.bs", "test.batch"])
def test_sizes_of_an_evaluations_batches_are_options(key: str) -> None:
    """Where and how often an evaluation happens is not."""
    assert list(options_of({key: 8, "eval_every": 10, "eval_dir": "x"})) == [key]


@pytest.mark.parametrize("number", [0, 1])
def test_bundled_trainer_evaluates_rows(number: int) -> None:
    """Of both stages, whatever a training batch has."""
    assert found(build_subject(), number) == []
