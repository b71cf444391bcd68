"""GG416 and GG417: each fault turns its check red, each sound twin passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from fixtures import metric_faults, token_weight_faults
from fixtures.check_runs import errors, red, run_check
from fixtures.metric_faults import reporting
from fixtures.token_weight_faults import weighing
from gradgate.checks.gg416_metric_misreported import _misreported
from gradgate.checks.metric_lines import line_of_wrong_number

NEIGHBOURS = ("GG100", "GG201", "GG205", "GG207", "GG208")


@pytest.mark.parametrize("name", metric_faults.FAULTS)
def test_gg416_names_a_metric_that_is_something_else(name: str) -> None:
    """And no neighbour sees it: the training is right."""
    told, message = metric_faults.FAULTS[name]
    subject = reporting(told)
    (found,) = errors(run_check("GG416", subject, subject.stages[0]))
    assert message in found
    assert red(subject, subject.stages[0], NEIGHBOURS) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scaled term", '"value_loss": 0.5 * terms["value_loss"]'),
        ("no term", '"train_loss": 3 * terms["total"]'),
        ("perplexity of everything", ""),
        ("the critic's in it", '"nll": terms["cross_entropy"] + 0.01'),
        ("norm behind zero_grad", '"grad_norm": 0.0'),
    ],
)
def test_gg416_names_the_line_of_a_number_that_was_right_before_or_lets_another_in(name: str, text: str) -> None:
    """None where what the number should be is not known."""
    subject = reporting(metric_faults.FAULTS[name][0])
    (finding,) = run_check("GG416", subject, subject.stages[0]).findings
    assert (text in finding.culprit.source) if finding.culprit else not text


def summed(parts: list[float]) -> dict[str, float]:
    value_loss = sum(parts)
    return {"value_loss": value_loss / 3}


def test_metric_is_not_named_behind_a_number_that_is_neither_right_nor_reported() -> None:
    """What is added up and divided on the way may have been wrong already."""
    assert line_of_wrong_number(lambda: summed([1.0, 2.0]), None, "value_loss", 1.0, 0.5) is None


@pytest.mark.parametrize("name", metric_faults.SOUND)
def test_gg416_passes_numbers_that_are_what_they_are_called(name: str) -> None:
    """Rounded ones, a norm before or behind clipping, a `loss` that is one of the terms."""
    subject = reporting(metric_faults.SOUND[name])
    outcome = run_check("GG416", subject, subject.stages[0])
    assert (errors(outcome), outcome.not_applicable) == ([], "")


def test_gg416_tells_a_term_from_another_that_is_near_it() -> None:
    """To the last digits it is the other one; a number that is rounded for the log is its own."""
    terms = {"total": 5.001, "token_loss": 5.0, "value_loss": 0.01}

    (finding,) = _misreported({"token_loss": 5.001, "loss": 5.001}, terms, [])

    assert "that is the loss term `total`, `token_loss` is 5" in finding.message
    assert list(_misreported({"token_loss": 5.0007}, terms, [])) == []


def test_gg416_does_not_judge_a_step_of_several_updates() -> None:
    """Its last number is of another point than the first loss."""
    subject = reporting(metric_faults.SOUND["all"], updates=2)
    outcome = run_check("GG416", subject, subject.stages[0])
    assert outcome.findings == () and "several updates" in outcome.not_applicable


@pytest.mark.parametrize("weights", token_weight_faults.FAULTS)
def test_gg417_names_what_is_wrong_with_token_weights(weights: Callable[..., Tensor]) -> None:
    """One of its messages says it."""
    outcome = run_check("GG417", weighing(weights), None)
    assert any(token_weight_faults.FAULTS[weights] in message for message in errors(outcome))


@pytest.mark.parametrize("weights", token_weight_faults.SOUND)
def test_gg417_passes_sound_token_weights(weights: Callable[..., Tensor]) -> None:
    """Exponentials, a softmax over each row, a selection, none at all."""
    outcome = run_check("GG417", weighing(weights), None)
    assert errors(outcome) == []


def test_gg417_passes_moderate_bounds_and_temperatures() -> None:
    """Exponents bounded at ln 5 and a temperature of 0.2: fewer than half of the weights are bounds."""
    outcome = run_check(
        "GG417", weighing(lambda s, v: token_weight_faults.exponential(s, v, temperature=0.2, bound=1.6)), None
    )
    assert errors(outcome) == []
    assert outcome.measured["share_on_bounds"] < 0.5
