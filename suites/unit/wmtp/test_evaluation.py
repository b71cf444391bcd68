"""Evaluation: what it measures, and that training does not notice it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wmtp.evaluation import Predictions, auc, evaluating, value_quality


def test_modes_gradients_and_random_numbers_are_as_before() -> None:
    """Also where parts were in eval mode already, and after an error inside."""
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2), nn.Dropout())
    model[0].eval()
    random = torch.get_rng_state()
    with pytest.raises(KeyError), evaluating(model):
        inside = ([module.training for module in model.modules()], torch.is_grad_enabled())
        torch.rand(3)
        raise KeyError
    assert inside == ([False] * 4, False)
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert (torch.is_grad_enabled(), torch.equal(torch.get_rng_state(), random)) == (True, True)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    """A tie counts half; without both kinds there is no such number."""
    score_R = torch.tensor([float(score) for score, _ in rows])
    right_R = torch.tensor([right for _, right in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a, right in rows if right for b, other in rows if not other]
    expected = sum(pairs) / len(pairs) if pairs else math.nan
    assert auc(score_R, right_R) == pytest.approx(expected, nan_ok=True)


def test_quality_compares_with_the_best_constant_and_the_other_rows_at_the_position() -> None:
    """The constant is the mean of the same targets; a position's mean leaves out the row that it predicts."""
    predictions = Predictions(
        torch.zeros(4), torch.tensor([0.0, 1.0, 0.0, 3.0]), torch.tensor([0, 1, 0, 1]), torch.tensor([0.0, 1.0])
    )
    quality = value_quality(predictions, torch.tensor([False, True]))
    assert quality.value_loss == pytest.approx(2.5)
    assert quality.constant_loss == pytest.approx(1.5)
    assert quality.position_loss == pytest.approx((0 + 4 + 0 + 4) / 4)
    assert quality.auc == 1.0


def test_position_that_one_row_reaches_is_predicted_by_all_other_tokens() -> None:
    """Where no other row is that long, the mean of the rest stands in; 0 where there is no rest."""
    scores, right = torch.zeros(2), torch.tensor([True, False])
    apart = value_quality(Predictions(torch.zeros(2), torch.tensor([2.0, 4.0]), torch.tensor([0, 1]), scores), right)
    alone = value_quality(Predictions(torch.zeros(1), torch.tensor([2.0]), torch.tensor([0]), scores[:1]), right[:1])
    assert (apart.position_loss, alone.position_loss) == (4.0, 4.0)
