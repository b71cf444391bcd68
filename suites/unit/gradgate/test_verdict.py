"""The verdict follows from the statuses alone, and nothing that did not run counts as passed."""

from __future__ import annotations

import pytest

from gradgate.core.finding import Finding, Location
from gradgate.core.rule import Rule
from gradgate.core.verdict import STATUSES, Result, Verdict


def conclude(*statuses: str, interrupted: bool = False) -> str:
    results = tuple(Result("GG401", "weight-sum", status) for status in statuses)
    return Verdict("subject", {}, results, interrupted).conclusion


@pytest.mark.parametrize(
    ("statuses", "conclusion"),
    [
        (("passed",), "passed"),
        (("passed", "expected", "not_applicable", "not_built"), "passed"),
        (("passed", "inconclusive"), "inconclusive"),
        (("passed", "inconclusive", "error"), "error"),
        (STATUSES, "failed"),
        (("expected", "not_applicable", "not_built"), "inconclusive"),
        ((), "inconclusive"),
    ],
)
def test_conclusion_is_the_worst_that_counts(statuses: tuple[str, ...], conclusion: str):
    """Failed over error over inconclusive over passed; a run in which nothing passed proves nothing."""
    assert conclude(*statuses) == conclusion


def test_conclusion_is_inconclusive_when_interrupted():
    """What was not reached is not known."""
    assert conclude("passed", interrupted=True) == "inconclusive"


def test_rule_knows_its_family():
    """The family follows from the first digit."""
    assert Rule("GG802", "memory-slope", ("run",), "").family == "memory"


def test_location_reads_as_a_place():
    """A module's own line has no function."""
    assert str(Location("a.py", 3, "f")) == "a.py:3 in f()"
    assert str(Location("a.py", 3)) == "a.py:3"


@pytest.mark.parametrize(("field", "value"), [("kind", "typo"), ("severity", "fatal")])
def test_finding_refuses_unknown_words(field: str, value: str):
    """Kinds and severities are closed sets: outside tools match on them."""
    with pytest.raises(ValueError, match=value):
        Finding("GG401", "weight-sum", "message", **{field: value})
