"""Trajectories: how they are cut, stored and held against one another, and the check that stands on them."""

from __future__ import annotations

import faulthandler
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures import memory_faults
from fixtures.pytest_fixtures import rest_at_night
from fixtures.stored_trajectories import store
from gradgate.checks import catalogue, fits
from gradgate.checks.gg903_trajectory import ALPHA
from gradgate.checks.trajectories import recorded, series_of
from gradgate.core.errors import SubjectError
from gradgate.core.verdict import Outcome
from gradgate.gates.stats import student_bound
from gradgate.gates.trajectories import FLOOR, POINTS, Trajectory, departure, in_parts
from gradgate.subjects.contract import Context, Fit, Stage, Subject

Fitted = Callable[[int], Fit]


def noisy(seed: int, *, shift: float = 0.0, tail: float = 0.0, steps: int = 24, name: str = "loss") -> Fit:
    """A loss that falls, each step within a percent or so of the others' of its kind."""
    rng = random.Random(seed)
    loss = [(1 + 3 * math.exp(-step / 6)) * (1 + shift) * math.exp(rng.gauss(0, 0.01)) for step in range(steps)]
    loss[-2:] = [value * (1 + tail) for value in loss[-2:]]
    return Fit((loss[0], loss[-1]), steps={name: loss})


def subject_of(fitted: Fitted, objective: Any = "tokens") -> Subject:
    """A subject of one stage whose fits are given."""
    start = memory_faults.subject(memory_faults.keeps_nothing).stages[0].start
    return Subject("drawn", [Stage("train", start, fit=lambda seed, *, device: fitted(seed), objective=objective)])


def record(folder: Path, fitted: Fitted = noisy, **options: Any) -> None:
    """A baseline that holds the trajectories of a stage."""
    store(folder, subject_of(fitted), **options)


def run_check(folder: Path | None, fitted: Fitted = noisy, *, seed: int = 100, profile: Any = "quick") -> Outcome:
    """GG903 on fits that are given."""
    subject = subject_of(fitted)
    check = catalogue.load_check(catalogue.rule("GG903"))
    return check.function(subject, subject.stages[0], Context(seed=seed, profile=profile, baselines=folder))


# --- the statistics --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 9.0), min_size=1, max_size=40), st.integers(1, 12))
def test_parts_are_means_of_neighbours(values: list[float], count: int) -> None:
    """Each value is in exactly one part: parts, weighted by their sizes, add up to the whole."""
    count = min(count, len(values))
    edges = [i * len(values) // count for i in range(count + 1)]
    sizes = [end - begin for begin, end in pairwise(edges)]

    parts = in_parts(values, count)

    assert len(parts) == count
    assert max(sizes) - min(sizes) <= 1
    assert sum(size * part for size, part in zip(sizes, parts, strict=True)) == pytest.approx(sum(values))


def literal(stored: Sequence[Sequence[float]], fresh: Sequence[Sequence[float]], alpha: float) -> tuple[float, ...]:
    """Mean residual, its tolerance, and the tolerance of the last point, written out; one value a point."""
    m, n, width = len(stored), len(fresh), len(stored[0])
    logs = [[math.log(value) for value in row] for row in stored]
    means = [sum(row) / width for row in logs]
    new = sum(math.log(value) for row in fresh for value in row) / (n * width)
    wide = math.sqrt(1 / n + 1 / m)
    last = [row[-1] for row in logs]
    return (
        new - sum(means) / m,
        student_bound(m - 1, alpha / 2) * stdev(means) * wide,
        student_bound(m - 1, alpha / 2 / width) * stdev(last) * wide,
    )


def test_departure_is_the_literal_formula() -> None:
    """On six points and eight seeds; the last point is the one that is moved, and therefore told."""
    rng = random.Random(1)
    stored = [[rng.uniform(1, 2) for _ in range(6)] for _ in range(8)]
    fresh = [[*[rng.uniform(1, 2) for _ in range(5)], 50.0] for _ in range(2)]
    trajectory = Trajectory((6,) * 8, tuple(map(tuple, stored)))

    found = departure(trajectory, fresh, 0.01)

    assert (found.mean, found.mean_allowed, found.point_allowed) == pytest.approx(literal(stored, fresh, 0.01))
    assert (found.at, found.left) == (5, True)


def test_departure_holds_what_has_no_logarithm_against_its_size() -> None:
    """Losses below 0 are shares of the stored ones' mean size."""
    stored = Trajectory((2,) * 5, tuple((-2.0 + 0.01 * i, 2.0) for i in range(5)))

    found = departure(stored, [[-1.0, 2.0]], 0.01)

    assert (found.at, round(found.point, 2), found.left) == (0, 0.49, True)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_departure_is_infinite_where_a_value_is_none(value: float) -> None:
    """NaN is beyond every tolerance, and so is a loss of 0 where all the stored ones were above."""
    stored = Trajectory((2,) * 5, tuple((2.0 + 0.1 * i, 1.0) for i in range(5)))

    found = departure(stored, [[2.0, value]], 0.01)

    assert (found.mean, found.point, found.departed) == (math.inf, math.inf, True)


def test_tolerance_has_a_floor() -> None:
    """Seeds that agree to the last bit do not make the last bit a departure."""
    stored = Trajectory((2,) * 5, ((2.0, 1.0),) * 5)

    found = departure(stored, [[2.0 * (1 + FLOOR / 2), 1.0 * (1 + FLOOR / 2)]], 0.01)

    assert (found.mean_allowed, found.point_allowed, found.departed) == (FLOOR, FLOOR, False)


def test_false_alarms_keep_to_their_error_over_draws_of_both_sides() -> None:
    """Of 600 draws of 8 stored and 2 fresh seeds at most a share of alpha departs, within three standard errors."""
    rng = random.Random(5)

    def seed() -> tuple[float, ...]:
        shared = rng.gauss(0, 0.05)
        return tuple(math.exp(shared + rng.gauss(0, 0.1)) for _ in range(4))

    hits = sum(
        departure(Trajectory((4,) * 8, tuple(seed() for _ in range(8))), [seed(), seed()], 0.05).departed
        for _ in range(600)
    )

    assert hits / 600 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


# --- what is stored --------------------------------------------------------------------------------------------------


def test_trajectory_survives_its_file() -> None:
    """Lengths and points are what they were, to six digits."""
    one = Trajectory.of([[1.0, 2.0, 4.0 / 3]] * 2)

    assert Trajectory.from_tree(one.tree()) == one
    assert one.points[0] == (1.0, 2.0, 1.33333)


def test_record_has_eight_seeds_in_twelve_parts() -> None:
    """Of every number that all fits have; of two evaluations there are two points."""
    subject = subject_of(noisy)

    found = recorded(subject, subject.stages[0], "cpu", 0)

    assert {name: (len(one.points), len(one.points[0])) for name, one in found.items()} == {
        "heldout_loss": (8, 2),
        "loss": (8, POINTS),
    }
    assert recorded(subject, replace(subject.stages[0], fit=None), "cpu", 0) == {}


def test_record_refuses_what_is_not_finite() -> None:
    """A run that blew up is nothing to go by."""
    subject = subject_of(lambda seed: Fit((1.0, math.nan if seed == 3 else 0.5)))

    with pytest.raises(SubjectError, match="`heldout_loss` of a fit of stage 'train' is not finite"):
        recorded(subject, subject.stages[0], "cpu", 0)


def test_series_leave_out_what_has_no_value() -> None:
    """A fit may have no curve."""
    assert series_of(Fit((), steps={"loss": [1, 2]})) == {"loss": (1.0, 2.0)}


# --- the check -------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Fitted, str]] = {
    "worse by five percent": (lambda seed: noisy(seed, shift=0.05), "above on average"),
    "better by five percent": (lambda seed: noisy(seed, shift=-0.05), "below on average"),
    "spike at the end": (lambda seed: noisy(seed, tail=0.2), f"above at point {POINTS} of {POINTS}"),
    "not finite": (lambda seed: noisy(seed, tail=math.nan), "infinitely far on average"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_gg903_names_what_leaves_the_trajectory(tmp_path: Path, fault: str) -> None:
    """By how much, where, and how much is allowed; after all the seeds that the profile has."""
    fitted, told = FAULTS[fault]
    record(tmp_path)

    messages = [one.message for one in run_check(tmp_path, fitted).findings]

    assert any(message.startswith("`loss` leaves the stored trajectory: ") and told in message for message in messages)
    assert all("3 seeds against 8" in message for message in messages)


@pytest.mark.parametrize("seed", rest_at_night(range(0, 300, 30), day=2))
def test_gg903_passes_on_the_clean_twin(tmp_path: Path, seed: int) -> None:
    """Fresh seeds of the same kind, those that are stored among them."""
    record(tmp_path)

    outcome = run_check(tmp_path, seed=seed)

    assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")
    assert set(outcome.allowed) <= set(outcome.measured)
    assert set(outcome.series["loss"]) == {"stored", "now"}


def test_gg903_sees_a_drift_that_every_point_tolerates(tmp_path: Path) -> None:
    """One percent everywhere is the noise of a single step, and several times that of the mean."""
    record(tmp_path)

    findings = run_check(tmp_path, lambda seed: noisy(seed, shift=0.01)).findings
    (finding,) = [one for one in findings if "`loss`" in one.message]

    assert "on average" in finding.message
    assert "at point" not in finding.message


def test_gg903_takes_more_seeds_before_it_fails(tmp_path: Path) -> None:
    """Two odd seeds are outvoted only where they are few among the others; what stays outside is told."""
    record(tmp_path)
    tried: list[int] = []

    def odd(seed: int) -> Fit:
        tried.append(seed)
        return noisy(seed, shift=0.014 if seed < 103 else -0.02)

    outcome = run_check(tmp_path, odd, profile="pr")

    assert (sorted(set(tried)), outcome.findings) == ([100, 101, 102, 103, 104], ())


@pytest.mark.parametrize(
    ("fitted", "told"),
    [
        (lambda seed: noisy(seed, name="other"), "`loss` is stored and no longer reported"),
        (lambda seed: noisy(seed, steps=12), "a fit has 12 values of `loss`, stored: 24"),
    ],
)
def test_gg903_is_inconclusive_where_fits_cannot_be_compared(tmp_path: Path, fitted: Fitted, told: str) -> None:
    """Another name or length wants a new record, and is no pass."""
    record(tmp_path)

    reason = run_check(tmp_path, fitted).inconclusive

    assert reason.startswith(told)
    assert "gradgate baseline update --reason" in reason


def test_gg903_is_inconclusive_on_too_few_stored_seeds(tmp_path: Path) -> None:
    """Four say too little of their spread."""
    record(tmp_path, seeds=4)

    assert run_check(tmp_path).inconclusive.startswith("4 seeds are stored, their spread wants 5")


def test_gg903_does_not_apply_without_a_trajectory(tmp_path: Path) -> None:
    """It says what records one."""
    record(tmp_path, lambda seed: Fit(()))

    told = run_check(tmp_path).not_applicable

    assert told == "the stored baseline has no trajectory of train; record one: gradgate baseline update --reason TEXT"
    assert "there is no pyproject.toml" in run_check(None).not_applicable


def test_gg903_refuses_another_environment(tmp_path: Path) -> None:
    """Another torch sums in another order; another kernel does not."""
    record(tmp_path, facts={"torch": "1.0"})
    assert "torch: 1.0 there" in run_check(tmp_path).not_applicable

    record(tmp_path, facts={"kernel": "Linux 1.0"})
    assert run_check(tmp_path).measured


def test_gg903_error_is_small_beside_a_year_of_runs() -> None:
    """Fifty runs of two stages raise less than one alarm in ten times."""
    assert 50 * 2 * ALPHA <= 0.1


# --- side by side ----------------------------------------------------------------------------------------------------


def counting() -> tuple[Subject, list[int]]:
    """A subject, and the seeds that are fitted in this process."""
    here: list[int] = []

    def fitted(seed: int) -> Fit:
        here.append(seed)
        return noisy(seed)

    return subject_of(fitted), here


def test_fits_of_the_next_seeds_are_made_side_by_side() -> None:
    """Where two processes may be used, the seed behind is known too, bit for bit, and this process fitted neither."""
    subject, here = counting()
    context = Context(jobs=2)

    first, second = (fits.fit(subject, subject.stages[0], seed, context) for seed in (5, 6))

    assert (first, second, here) == (noisy(5), noisy(6), [])


def test_fits_side_by_side_end_in_a_process_with_a_watchdog() -> None:
    """A worker that runs a check has one, and its forks would wait for a thread that they do not have."""
    subject, here = counting()
    faulthandler.dump_traceback_later(600)
    try:
        found = fits.fit(subject, subject.stages[0], 7, Context(jobs=2))
    finally:
        faulthandler.cancel_dump_traceback_later()

    assert (found, here) == (noisy(7), [])


def test_fit_that_fails_in_another_process_is_told_by_this_one() -> None:
    """The error is the fit's own."""

    def fails(seed: int) -> Fit:
        raise ValueError(f"seed {seed}")

    subject = subject_of(fails)

    with pytest.raises(Exception, match=r"fit\(seed=5\) raised ValueError: seed 5"):
        fits.fit(subject, subject.stages[0], 5, Context(jobs=2))
