"""GG529 on the head weights that a step has."""

from __future__ import annotations

import pytest
import torch

from fixtures.check_runs import errors, run_check
from fixtures.step_weights import (
    FLOOR,
    Weigh,
    averaging_one,
    masked,
    masked_behind,
    mixed,
    on_top,
    scores_themselves,
    undetached,
    undivided,
    weighing,
)
from gradgate.checks.runner import check_trainer
from gradgate.core.errors import SubjectError
from gradgate.subjects.capabilities import Capabilities
from gradgate.subjects.contract import Subject
from gradgate_wmtp.adapter import build_subject

FLOORS = {"floor": (0.0, FLOOR)}


def found(subject: Subject) -> list[str]:
    """Messages of what fails."""
    return errors(run_check("GG529", subject, subject.stages[-1]))


@pytest.mark.parametrize(
    ("weigh", "told"),
    [
        (masked_behind, ["the sum of the step's head weights at "]),
        (scores_themselves, ["a head weight of the step is -", "the sum of the step"]),
        (undivided, ["a head weight of the step is not finite"]),
    ],
)
def test_weights_of_a_step_that_are_no_shares_are_told_of(weigh: Weigh, told: list[str]) -> None:
    """With what they are and what they may be, once a kind."""
    messages = found(weighing(weigh))
    assert [text for text, message in zip(told, messages, strict=True) if not message.startswith(text)] == []
    assert all("; allowed: " in message for message in messages)


@pytest.mark.parametrize("weigh", [masked, averaging_one])
def test_shares_of_each_position_pass(weigh: Weigh) -> None:
    """Also where they average 1, and where no head has a label."""
    assert found(weighing(weigh)) == []


def test_floor_on_top_is_found_where_a_setting_has_one() -> None:
    """As it is configured there is none."""
    (message,) = found(weighing(on_top, FLOORS))
    assert "is 1.1; allowed: 1" in message and message.endswith("with floor = 0.1")
    assert found(weighing(mixed, FLOORS)) == []


def test_weights_on_the_graph_name_what_they_reach() -> None:
    """And no module that they do not."""
    (message,) = found(weighing(undetached))
    assert message.startswith("the head weights give `value` a gradient of ")


def test_gradient_that_a_setting_lets_through_is_a_warning() -> None:
    """It may be meant so there; found with the setting that shows it."""

    def blended(score_BSH: torch.Tensor, valid_BSH: torch.Tensor, floor: float) -> torch.Tensor:
        return (1 - 10 * floor) * masked(score_BSH, valid_BSH) + 10 * floor * undetached(score_BSH, valid_BSH, 0.0)

    (result,) = check_trainer(weighing(blended, FLOORS), select=["GG529"], profile="pr").results
    (finding,) = result.findings
    assert finding.severity == "warning" and finding.message.endswith("with floor = 0.1")


def test_a_run_that_names_no_weights_has_none() -> None:
    """The hint says which line would."""
    subject = weighing(masked)
    assert Capabilities(subject).missing(subject.stages[0], ["weights"]) == []
    subject.stages[0].start.func.weights_from = None  # type: ignore[attr-defined]
    try:
        (hint,) = Capabilities(subject).missing(subject.stages[0], ["weights"])
        assert "weights_from" in hint
    finally:
        subject.stages[0].start.func.weights_from = "compute:weight_BSH"  # type: ignore[attr-defined]


def test_a_place_without_weights_is_told_of() -> None:
    """By the name that was given."""
    subject = weighing(masked)
    run = subject.stages[0].start(0)
    type(run).weights_from = "compute:nothing"
    try:
        with pytest.raises(SubjectError, match="nothing"):
            run.weights(next(iter(run.batches())))
    finally:
        type(run).weights_from = "compute:weight_BSH"


def test_the_bundled_trainer_weighs_with_shares() -> None:
    """In every setting that is listed."""
    assert found(build_subject()) == []
