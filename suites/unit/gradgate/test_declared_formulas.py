"""GG530: numbers of the trainer's functions against the formulas that its documentation has."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from fixtures.check_runs import run_check
from fixtures.formula_departures import departing
from gradgate.checks.recorded_calls import copied
from gradgate.core.errors import SubjectError
from gradgate.core.verdict import Outcome

PLACES = {
    "divergence": "`divergence:return` is ",
    "behind a switch": "`divergence:return` is ",
    "temperature": "`Ramp.advance:now` is 2, and by the declared formula 1.75",
    "mean": "`parts_of:return[0]` is ",
    "constants": "`weights_of:return` gives `score_B` a gradient of norm ",
    "no gradient": "`term_of:return` gives `value_B` a gradient of norm 0, and by the declared formula ",
    "metric": "`explained:return` is ",
    "pieces": "`pieces_of:count` is 2, and by the declared formula 3",
    "average": "`Average.update:self.layer.bias` is ",
}


def checked(wrong: str = "", **formulas: object) -> Outcome:
    subject = departing(wrong, **formulas)
    return run_check("GG530", subject, subject.stages[0])


@pytest.mark.parametrize(("wrong", "told"), [("both", 2), ("both, but constants", 1)])
def test_gradient_where_none_is_declared_is_told_beside_other_numbers(wrong: str, told: int) -> None:
    """A number that departs does not hide that it is no constant, either; one that is a constant is told once."""
    findings = checked(wrong).findings
    assert len(findings) == told
    assert any("a gradient of norm" in each.message for each in findings) is (told == 2)


def test_numbers_that_are_as_documented_pass() -> None:
    """Of steps and of an evaluation, in each setting; what a formula says nothing of, and what it was written over."""
    outcome = checked()
    assert outcome.findings == () and not outcome.inconclusive and outcome.measured["calls"] >= 2 * 16


@pytest.mark.parametrize("wrong", PLACES)
def test_number_that_departs_is_told_with_its_place_and_line(wrong: str) -> None:
    """One finding a place; where it departs in one setting alone, that is named."""
    (finding,) = checked(wrong).findings
    assert finding.message.startswith(PLACES[wrong])
    assert finding.culprit is not None and finding.culprit.file.endswith("formula_departures.py")
    assert ("with reverse = True" in finding.message) == (wrong == "behind a switch")


def test_place_that_is_never_called_decides_nothing() -> None:
    """And is named."""
    assert "'nobody:return' is of no call of a start" in checked(nobody__return=lambda x: x).inconclusive


@pytest.mark.parametrize(
    ("formulas", "said"),
    [
        (
            {"divergence__return": lambda log_p: log_p},
            "takes 'log_p', no variable of the function; did you mean 'log_pi'",
        ),
        ({"divergence__return": lambda log_pi: log_pi.nope()}, "raised AttributeError"),
        ({"parts_of__return[1]": lambda error_B: error_B}, "is a dict in "),
    ],
)
def test_formula_that_cannot_be_asked_says_what_is_expected(formulas: dict[str, object], said: str) -> None:
    """With the nearest variable where a name is wrong; the other formulas are asked all the same."""
    (finding,) = checked(**formulas, parts_of__mean=lambda error_B, valid_B: error_B[valid_B].mean()).findings
    assert said in finding.message and finding.fix.startswith("mend the formula")


def test_place_that_names_no_function_is_refused() -> None:
    """Before anything runs."""
    with pytest.raises(SubjectError, match="names no function"):
        checked(divergence=lambda log_pi: log_pi)


def test_place_is_what_an_argument_became_and_a_formula_takes_it_as_it_was() -> None:
    """`error_B` is written over inside."""
    assert checked(parts_of__error_B=lambda error_B, valid_B: error_B * valid_B).findings == ()


@pytest.mark.parametrize(("longest", "red"), [(3, False), (2, True)])
def test_list_of_numbers_is_compared_as_a_tensor_is(longest: int, red: bool) -> None:
    """What builds data gives lists, of which each number and how many there are count."""

    def pieces(length: int) -> list[int]:
        return [min(longest, length - start) for start in range(0, length, longest)]

    assert bool(checked(pieces_of__return=pieces).findings) == red


def test_module_that_is_being_made_is_handed_on_as_it_is() -> None:
    """It has no parameters yet, where a formula is of what its `__init__` computes; one that is made is copied."""
    made, pairs = nn.Linear(1, 1), list[Any]()
    bare = nn.Linear.__new__(nn.Linear)
    assert copied(bare, pairs) is bare and not pairs
    assert copied(made, pairs) is not made and len(pairs) == 1
