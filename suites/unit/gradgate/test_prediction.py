"""The quality of value predictions against slow literal formulas."""

from __future__ import annotations

from itertools import permutations
from math import isnan, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradgate.checks.prediction import auc, position_mse, quality, shuffled_mse
from gradgate.subjects.contract import Fit

score = st.integers(0, 3).map(float)


@given(st.lists(score, min_size=1, max_size=6), st.lists(score, min_size=1, max_size=6))
def test_auc_is_the_share_of_pairs_in_the_right_order(right: list[float], wrong: list[float]) -> None:
    """Ties count half."""
    pairs = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    flags = torch.tensor([True] * len(right) + [False] * len(wrong))

    area, _ = auc(torch.tensor(right + wrong), flags)

    assert area == pytest.approx(sum(pairs) / len(pairs))


def test_auc_standard_error_is_hanley_and_mcneils() -> None:
    """At an area of 1/2 with n right and m wrong rows: sqrt((n + m + 1) / (12 n m)) for continuous scores."""
    scores, flags = torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.tensor([True, True, False, False])

    area, error = auc(scores, flags)

    assert area == 0.5
    assert error == pytest.approx(sqrt((0.25 + (1 / 3 - 0.25) + (1 / 3 - 0.25)) / 4))


@pytest.mark.parametrize("flag", [True, False])
def test_auc_is_nan_where_all_rows_are_alike(flag: bool) -> None:
    """There are no pairs."""
    assert all(isnan(value) for value in auc(torch.ones(3), torch.tensor([flag] * 3)))


@given(st.lists(st.tuples(st.integers(0, 2), score), min_size=1, max_size=8))
def test_position_mse_leaves_each_target_out_of_its_own_mean(rows: list[tuple[int, float]]) -> None:
    """A lone position falls back on everybody else's mean, a lone target on 0."""
    errors = []
    for i, (position, target) in enumerate(rows):
        others = [t for j, (p, t) in enumerate(rows) if j != i and p == position]
        others = others or [t for j, (_, t) in enumerate(rows) if j != i] or [0.0]
        errors.append((target - sum(others) / len(others)) ** 2)

    position_N, target_N = torch.tensor([p for p, _ in rows]), torch.tensor([t for _, t in rows])

    assert position_mse(target_N.double(), position_N) == pytest.approx(sum(errors) / len(errors), abs=1e-9)


def test_quality_compares_with_the_mean_of_the_very_targets() -> None:
    """Predicting that mean has a ratio of 1; no constant is below."""
    target_N = torch.tensor([0.0, 1.0, 2.0])

    found = quality(Fit((), prediction_N=torch.ones(3), target_N=target_N))

    assert found is not None
    assert found.ratio == 1.0
    assert isnan(found.auc)
    assert isnan(found.position_mse)


def test_quality_has_no_ratio_where_targets_are_constant() -> None:
    """Nothing can beat an error of 0."""
    found = quality(Fit((), prediction_N=torch.zeros(3), target_N=torch.ones(3)))

    assert found is not None
    assert isnan(found.ratio)


@pytest.mark.parametrize("fit", [Fit(()), Fit((), prediction_N=torch.zeros(0), target_N=torch.zeros(0))])
def test_quality_is_none_without_predictions(fit: Fit) -> None:
    """There is nothing to judge."""
    assert quality(fit) is None


@given(st.lists(st.tuples(score, score, st.integers(0, 2)), min_size=1, max_size=5))
def test_shuffled_error_is_the_mean_over_all_shuffles(rows: list[tuple[float, float, int]]) -> None:
    """Every permutation of the rows that keeps the positions, written out."""
    prediction_N, target_N = (torch.tensor([row[i] for row in rows]) for i in (0, 1))
    position_N = torch.tensor([row[2] for row in rows])
    kept = [order for order in permutations(range(len(rows))) if torch.equal(position_N[list(order)], position_N)]
    errors = [float((prediction_N - target_N[list(order)]).square().mean()) for order in kept]

    assert shuffled_mse(prediction_N, target_N, position_N) == pytest.approx(sum(errors) / len(errors))


def test_predictions_by_position_alone_do_not_feel_the_shuffle() -> None:
    """Their error is the same whatever row a target comes from."""
    position_N = torch.arange(12).remainder(3)
    found = quality(Fit((1.0,), 1, position_N.double(), position_N + torch.arange(12).remainder(2), position_N))

    assert found is not None
    assert found.shuffled_ratio == pytest.approx(1.0)
