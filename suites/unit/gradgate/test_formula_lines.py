"""The line of a wrong formula: where one number of the reference makes it right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fixtures import broken_functions
from fixtures.formula_subjects import subject_with
from gradgate.checks import catalogue
from gradgate.checks.culprits import Failing, culprit
from gradgate.checks.oracle_steps import Step, masks
from gradgate.subjects.contract import Context, Functions


def named(code: str, functions: Functions) -> set[str]:
    """The functions whose lines a check names."""
    subject = subject_with(functions)
    check = catalogue.load_check(catalogue.rule(code))
    found = check.function(subject, subject.stages[0] if check.per_stage else None, Context())
    return {finding.culprit.function if finding.culprit else "" for finding in found.findings}


@pytest.mark.parametrize(
    ("code", "fault", "function"),
    [
        ("GG401", "masked behind the softmax", "masked_behind"),
        ("GG403", "value at padding", "delta_of_padding"),
        ("GG404", "halved value loss", "value_loss_halved"),
        ("GG404", "0/0 loss", "loss_zero_by_zero"),
        ("GG404", "packing unknown", "returns_across_documents"),
        ("GG412", "slot filled with 0", "labels_zero_filled"),
        ("GG501", "reward one step early", "returns_one_step_early"),
        ("GG501", "in the values' dtype", "returns_in_own_dtype"),
    ],
)
def test_formula_names_the_line_of_its_fault(code: str, fault: str, function: str) -> None:
    """The line lies in the function that holds the fault, not where its numbers go in or come out."""
    assert named(code, broken_functions.BROKEN[code][fault]) == {function}


def doubled(x: Tensor) -> Tensor:
    return x + x


def shifted(x: Tensor) -> Tensor:
    start = doubled(x)
    return start + 1


def failing(run: object, expected: Tensor, *steps: Step) -> Failing:
    return Failing(run, lambda answer: torch.equal(answer, expected), steps)  # type: ignore[arg-type]


def test_culprit_passes_over_what_is_right() -> None:
    """An operation that gives a step of the reference is not named, the first that leaves it is."""
    x = torch.arange(3.0)
    steps = Step("twice", 2 * x.double()), Step("answer", 2 * x.double() + 2)
    found = culprit([failing(lambda: shifted(x), 2 * x + 2, *steps)], None)
    assert found is not None and (found.function, found.source) == ("shifted", "return start + 1")


def test_culprit_is_none_where_no_number_repairs_it() -> None:
    """A line that is no more than a guess is not named."""
    x = torch.arange(3.0)
    assert culprit([failing(lambda: shifted(x), 5 * x, Step("twice", 2 * x.double()))], None) is None


def test_culprit_is_none_where_nothing_fails() -> None:
    """What is right is not looked into."""
    x = torch.arange(3.0)
    assert culprit([failing(lambda: shifted(x), 2 * x + 1)], None) is None


def test_masks_keep_keys_inside_of_their_document() -> None:
    """The last mask without the query's own key is causal, real and of one document."""
    valid_BS, document_BS = torch.tensor([[True, True, False]]), torch.tensor([[0, 1, 1]])
    found = {step.name: step.value for step in masks(valid_BS, document_BS)}
    assert found["keys to look at"].tolist() == [[[True, False, False], [False, True, False], [False, True, False]]]
