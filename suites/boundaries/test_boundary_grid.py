"""The boundary grid against the literal references, with the trainer's own functions.

S in {1, 2, H-1, H, H+1, 2H+1}, H in {1, 2, 4}, every kind of mask alone, together, strided and packed; every position
of each, so t in {0, S-H-1 … S-1} is among them. And what must be refused, zero, or left alone at the edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradgate.checks import cases, oracles, tolerances
from gradgate.checks.cases import Case
from wmtp import gae_returns, head_weights, make_labels, place_rewards, wmtp_loss
from wmtp.data.batches import Row, collate

GRID = list(cases.boundary_grid(seed=11, gaps=True))
SETTINGS = {"discount_lambda": 0.95, "temperature": 0.7}
DECAYS = {"gamma": 0.99, "gae_lambda": 0.95}
NAN = math.nan


def labels_hold(case: Case) -> bool:
    label_BSH = make_labels(case.token_BS, case.valid_BS, case.horizon, document_BS=case.document_BS)
    return torch.equal(label_BSH, case.labels)


def weights_hold(case: Case) -> bool:
    arguments, options = (case.labels, case.valid_BS), {**SETTINGS, "document_BS": case.document_BS}
    expected_BSH = oracles.head_weights(case.value_BS, *arguments, **options)
    allowed_BS1 = tolerances.head_weight(case.value_BS, case.valid_BS, case.horizon, **options)
    return bool(((head_weights(case.value_BS, *arguments, **options) - expected_BSH).abs() <= allowed_BS1).all())


def loss_holds(case: Case) -> bool:
    label_BSH = case.labels
    weight_BSH = oracles.head_weights(case.value_BS, label_BSH, case.valid_BS, **SETTINGS, document_BS=case.document_BS)
    rng = torch.Generator().manual_seed(case.token_BS.numel())
    logits_BSHV = torch.randn(*label_BSH.shape, case.token_BS.numel(), generator=rng).requires_grad_()
    loss = wmtp_loss(logits_BSHV, label_BSH, weight_BSH.float())
    (gradient_BSHV,) = torch.autograd.grad(loss, logits_BSHV)
    error = abs(float(loss.detach()) - float(oracles.wmtp_loss(logits_BSHV.detach(), label_BSH, weight_BSH)))
    counted = int((label_BSH != -100).any(-1).sum())
    silent = not gradient_BSHV[label_BSH == -100].any()
    return silent and bool(gradient_BSHV.isfinite().all()) and error <= tolerances.loss(logits_BSHV, counted)


def returns_hold(case: Case) -> bool:
    arguments, options = (case.reward_BS, case.value_BS, case.valid_BS), {**DECAYS, "document_BS": case.document_BS}
    error_BS = (gae_returns(*arguments, **options) - oracles.gae_returns(*arguments, **options)).abs()
    return bool((error_BS <= tolerances.returns(*arguments)).all())


def rewards_hold(case: Case) -> bool:
    return all(
        bool(
            (
                place_rewards(case.reward_B, case.valid_BS, placement, document_BS=case.document_BS)
                - oracles.place_rewards(case.reward_B, case.valid_BS, placement, case.document_BS)
            )
            .abs()
            .le(tolerances.placed_reward(case.reward_B))
            .all()
        )
        for placement in ("terminal", "uniform")
    )


@pytest.mark.parametrize("horizon", [1, 2, 4])
@pytest.mark.parametrize("holds", [labels_hold, weights_hold, loss_holds, returns_hold, rewards_hold])
def test_function_equals_its_reference_on_the_whole_grid(holds: Callable[[Case], bool], horizon: int) -> None:
    """No crash, no NaN, no wrong value, on any shape and mask of the grid."""
    grid = [case for case in GRID if case.horizon == horizon]
    assert [case.describe() for case in grid if not holds(case)] == []


@pytest.mark.parametrize("garbage", [NAN, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("holds", [weights_hold, returns_hold])
def test_function_equals_its_reference_with_garbage_at_padding(holds: Callable[[Case], bool], garbage: float) -> None:
    """What stands at padding is never read."""
    assert [case.describe() for case in GRID if not holds(case.with_padding(garbage))] == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("holds", [weights_hold, returns_hold])
def test_function_equals_its_reference_in_every_dtype(holds: Callable[[Case], bool], dtype: torch.dtype) -> None:
    """The grid in float64 and half precision."""
    assert [case.describe() for case in GRID if not holds(case.to(dtype))] == []


@pytest.mark.parametrize("discount_lambda", [0.0, 0.95, 1.0])
def test_weights_equal_their_reference_at_extreme_deltas(discount_lambda: float) -> None:
    """Deltas near -50, below -10, of +-1e4: no sentinel wins, nothing overflows."""
    for case in cases.extreme(0, discount_lambda):
        options = {"discount_lambda": discount_lambda, "temperature": 0.7}
        expected_BSH = oracles.head_weights(case.value_BS, case.labels, case.valid_BS, **options)
        actual_BSH = head_weights(case.value_BS, case.labels, case.valid_BS, **options)
        allowed_BS1 = tolerances.head_weight(case.value_BS, case.valid_BS, case.horizon, **options)
        assert bool(((actual_BSH - expected_BSH).abs() <= allowed_BS1).all()), case.name


@pytest.mark.parametrize("temperature", [0, 0.0, -1, -0.7, NAN, math.inf, -math.inf, True, False, "0.7", None])
def test_temperature_that_is_no_finite_positive_number_is_refused(temperature: Any) -> None:
    """Never replaced by a default; the error names the temperature."""
    valid_BS = torch.ones(1, 3, dtype=torch.bool)
    label_BSH = make_labels(torch.tensor([[1, 2, 3]]), valid_BS, 2)
    with pytest.raises(ValueError, match="temperature"):
        head_weights(torch.zeros(1, 3), label_BSH, valid_BS, temperature=temperature)


@pytest.mark.parametrize("temperature", [1, 2, 1e-30, 1e-40, 1e30])
def test_temperature_may_be_any_finite_positive_number(temperature: float) -> None:
    """Whole numbers, tiny and huge ones give finite weights that sum to 1, with finite gradients."""
    value_BS = torch.tensor([[0.0, 1.0, -1.0, 0.3]], requires_grad=True)
    valid_BS = torch.ones(1, 4, dtype=torch.bool)
    label_BSH = make_labels(torch.tensor([[1, 2, 3, 4]]), valid_BS, 3)
    weight_BSH = head_weights(value_BS, label_BSH, valid_BS, temperature=temperature)
    (gradient_BS,) = torch.autograd.grad(weight_BSH[0, 0, 1], value_BS)
    assert weight_BSH.sum(-1)[0].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0], abs=1e-6)
    assert bool(gradient_BS.isfinite().all())


@pytest.mark.parametrize("positions", [1, 2, 5])
def test_batch_of_nothing_but_padding_weighs_and_costs_nothing(positions: int) -> None:
    """Weights, their gradients, loss and its gradient are exactly 0, not NaN, with NaN at padding."""
    valid_BS = torch.zeros(2, positions, dtype=torch.bool)
    value_BS = torch.full((2, positions), NAN).requires_grad_()
    label_BSH = make_labels(torch.zeros(2, positions, dtype=torch.long), valid_BS, 3)
    weight_BSH = head_weights(value_BS, label_BSH, valid_BS)
    logits_BSHV = torch.randn(2, positions, 3, 7, requires_grad=True)
    loss = wmtp_loss(logits_BSHV, label_BSH, weight_BSH)
    gradients = torch.autograd.grad(loss, (logits_BSHV, value_BS))
    assert (label_BSH.unique().tolist(), weight_BSH.unique().tolist(), loss.item()) == ([-100], [0.0], 0.0)
    assert [gradient.unique().tolist() for gradient in gradients] == [[0.0], [0.0]]


def test_row_of_one_position_has_nothing_to_predict() -> None:
    """S = 1: all labels -100, all weights 0, loss 0; the return is the reward, and the reward lands there."""
    valid_BS = torch.ones(1, 1, dtype=torch.bool)
    label_BSH = make_labels(torch.tensor([[5]]), valid_BS, 4)
    weight_BSH = head_weights(torch.ones(1, 1), label_BSH, valid_BS)
    reward_BS = place_rewards(torch.tensor([2.0]), valid_BS, "terminal")
    assert label_BSH.unique().tolist() == [-100]
    assert weight_BSH.unique().tolist() == [0.0]
    assert wmtp_loss(torch.randn(1, 1, 4, 9), label_BSH, weight_BSH).item() == 0.0
    assert gae_returns(reward_BS, torch.ones(1, 1), valid_BS).tolist() == [[2.0]]


def test_single_valid_head_weighs_everything() -> None:
    """The last position that predicts has one head: its weight is exactly 1."""
    valid_BS = torch.ones(1, 4, dtype=torch.bool)
    label_BSH = make_labels(torch.tensor([[1, 2, 3, 4]]), valid_BS, 3)
    weight_BSH = head_weights(torch.randn(1, 4, generator=torch.Generator().manual_seed(0)), label_BSH, valid_BS)
    assert weight_BSH[0, 2].tolist() == [1.0, 0.0, 0.0]


def test_prompt_tokens_are_no_labels_but_count_for_delta_and_returns() -> None:
    """Under train_on: completion no head predicts a prompt token; deltas and returns see the prompt all the same."""
    row = Row((11, 12, 13, 14, 15), 3, 0, "task")
    options: dict[str, Any] = {"horizon": 2, "reward_placement": "uniform", "pad_id": 0}
    batch = collate([(row,)], torch.tensor([5.0]), train_on="completion", **options)
    everything = collate([(row,)], torch.tensor([5.0]), train_on="all", **options)
    assert batch.label_BSH[0].tolist() == [[-100, -100], [-100, 14], [14, 15], [15, -100], [-100, -100]]
    assert (batch.valid_BS.tolist(), batch.reward_BS.tolist()) == ([[True] * 5], everything.reward_BS.tolist())
    value_BS = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]], dtype=torch.float64)
    weight_BSH = head_weights(value_BS, batch.label_BSH, batch.valid_BS, discount_lambda=1.0, temperature=1.0)
    # delta[3] = 8 - 4 = 4 uses the prompt's last value; delta[4] = 8.
    assert weight_BSH[0, 2].tolist() == pytest.approx(torch.softmax(torch.tensor([4.0, 8.0]).double(), 0).tolist())
    assert weight_BSH[0, 0].tolist() == [0.0, 0.0]


def test_mask_of_whole_numbers_is_a_mask() -> None:
    """0 and 1, as collators give them, mean what False and True mean."""
    token_BS, valid_BS = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 0]])
    label_BSH = make_labels(token_BS, valid_BS, 2)
    value_BS = torch.tensor([[1.0, 2.0, 50.0]])
    assert torch.equal(label_BSH, make_labels(token_BS, valid_BS.bool(), 2))
    weight_BSH = head_weights(value_BS, label_BSH, valid_BS)
    assert torch.equal(weight_BSH, head_weights(value_BS, label_BSH, valid_BS.bool()))
    assert torch.equal(gae_returns(value_BS, value_BS, valid_BS), gae_returns(value_BS, value_BS, valid_BS.bool()))


def expanded(tensor: Tensor) -> Tensor:
    """One row shown three times without copies: stride 0."""
    return tensor[:1].expand(3, *tensor.shape[1:])


def test_expanded_tensors_are_read_and_never_written() -> None:
    """Stride 0 gives what a copy gives, and the arguments stay as they were."""
    case = next(case for case in GRID if case.name == "all kinds of rows" and case.horizon == 4)
    given = [expanded(tensor) for tensor in (case.value_BS, case.labels, case.valid_BS)]
    before = [tensor.clone() for tensor in given]
    weight_BSH = head_weights(*given)
    assert torch.equal(weight_BSH, head_weights(*before))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given, before, strict=True))
