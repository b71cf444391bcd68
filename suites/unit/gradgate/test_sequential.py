"""Wald's sequential test: its table, its error probabilities, and when it stops."""

from __future__ import annotations

import random
from itertools import count

import pytest

from gradgate.checks.sequential import BY_PROFILE, SequentialTest


@pytest.mark.parametrize(("profile", "needed"), [("quick", 2), ("pr", 4), ("nightly", 10)])
def test_good_subject_needs_the_stated_number_of_successes(profile: str, needed: int) -> None:
    """The table of GG901 and GG902 is what the test does."""
    decision, tried = BY_PROFILE[profile].run(count(), lambda seed: True)

    assert (decision, len(tried)) == ("good", needed)


@pytest.mark.parametrize("profile", ["quick", "pr", "nightly"])
def test_bad_subject_is_found_after_two_failures(profile: str) -> None:
    """Clear cases end early."""
    assert BY_PROFILE[profile].run(count(5), lambda seed: False) == ("bad", {5: False, 6: False})


def test_case_that_stays_open_is_undecided() -> None:
    """Two failures among three successes decide nothing."""
    assert BY_PROFILE["quick"].run(count(), lambda seed: seed not in (0, 3))[0] == "undecided"


@pytest.mark.parametrize(("profile", "needed"), [("quick", 5), ("pr", 9), ("nightly", 17)])
def test_single_odd_seed_is_outvoted(profile: str, needed: int) -> None:
    """One failure wants more successes, and there is room for them."""
    decision, tried = BY_PROFILE[profile].run(count(), lambda seed: seed != 1)

    assert (decision, len(tried)) == ("good", needed)


def test_decision_is_undecided_without_any_seed() -> None:
    """Nothing tried, nothing known."""
    assert BY_PROFILE["quick"].run([], lambda seed: True) == ("undecided", {})


@pytest.mark.parametrize("test", BY_PROFILE.values())
def test_error_probabilities_are_kept(test: SequentialTest) -> None:
    """At either hypothesis at most 0.05 / 0.95 are misjudged, within three standard errors of 4,000 runs."""
    rng = random.Random(0)

    def share(p: float, wrong: str) -> float:
        return sum(test.run(count(), lambda _: rng.random() < p)[0] == wrong for _ in range(4000)) / 4000

    assert share(test.p_good, "bad") <= 0.0526 + 0.011
    assert share(test.p_bad, "good") <= 0.0526 + 0.011


def test_a_bound_that_is_just_reached_decides() -> None:
    """Wald's test ends on its bounds: with odds of 3 each way one seed is as much evidence as an error of 1/4 wants."""
    test = SequentialTest(p_good=0.75, p_bad=0.25, most=9, error=0.25)
    assert (test.decide(0, 1), test.decide(1, 0), test.decide(1, 1)) == ("bad", "good", "undecided")


def test_no_more_seeds_are_tried_than_most() -> None:
    """An open case ends with what was tried."""
    test = SequentialTest(p_good=0.6, p_bad=0.5, most=3)
    assert test.run(count(), lambda seed: seed == 1) == ("undecided", {0: False, 1: True, 2: False})
