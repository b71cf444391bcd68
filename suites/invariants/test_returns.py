"""What must hold of the trainer's value targets and placed rewards for every mask, packing, dtype and discount."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fixtures import formula_settings
from gradgate import strategies
from gradgate.checks import oracles, tolerances
from gradgate.checks.cases import Case
from wmtp import gae_returns, place_rewards

PLACEMENTS = st.sampled_from(["terminal", "uniform"])
ONE_DTYPE = st.just(torch.float64)


def decays(case: Case, gamma: float, gae_lambda: float) -> dict[str, Any]:
    return {"gamma": gamma, "gae_lambda": gae_lambda, "document_BS": case.document_BS}


@given(
    case=strategies.token_batches(dtypes=strategies.DTYPES),
    gamma=formula_settings.DISCOUNTS,
    gae_lambda=formula_settings.DISCOUNTS,
)
def test_returns_equal_the_reference(case: Case, gamma: float, gae_lambda: float) -> None:
    """Within the derived bound of the literal recursion, at every real token."""
    arguments, options = (case.reward_BS, case.value_BS, case.valid_BS), decays(case, gamma, gae_lambda)
    error_BS = (gae_returns(*arguments, **options) - oracles.gae_returns(*arguments, **options)).abs()
    assert bool((error_BS[case.valid_BS] <= tolerances.returns(*arguments)).all())


@given(case=strategies.token_batches(dtypes=strategies.DTYPES))
def test_returns_are_detached_and_at_least_float32(case: Case) -> None:
    """No gradient flows into the target; half precision values give float32 targets."""
    case = case.tracked()
    return_BS = gae_returns(case.reward_BS, case.value_BS, case.valid_BS, document_BS=case.document_BS)
    assert (return_BS.requires_grad, return_BS.dtype) == (False, tolerances.working_dtype(case.value_BS.dtype))


@given(case=strategies.token_batches(), gamma=formula_settings.DISCOUNTS, gae_lambda=formula_settings.DISCOUNTS)
def test_returns_never_read_padding(case: Case, gamma: float, gae_lambda: float) -> None:
    """NaN, infinities and large numbers at padding change no bit, and padding itself gets 0."""
    clean, options = case.with_padding(0.0), decays(case, gamma, gae_lambda)
    return_BS = gae_returns(case.reward_BS, case.value_BS, case.valid_BS, **options)
    assert torch.equal(return_BS, gae_returns(clean.reward_BS, clean.value_BS, case.valid_BS, **options))
    assert return_BS[~case.valid_BS].unique().tolist() in ([0.0], [])


@given(
    case=strategies.token_batches(dtypes=ONE_DTYPE),
    gamma=formula_settings.DISCOUNTS,
    gae_lambda=formula_settings.DISCOUNTS,
)
def test_returns_are_linear_in_rewards_and_values(case: Case, gamma: float, gae_lambda: float) -> None:
    """Twice the rewards and values are twice the returns: no clipping, no whitening."""
    case, options = case.with_padding(0.0), decays(case, gamma, gae_lambda)
    once_BS = gae_returns(case.reward_BS, case.value_BS, case.valid_BS, **options)
    twice_BS = gae_returns(2 * case.reward_BS, 2 * case.value_BS, case.valid_BS, **options)
    assert torch.equal(twice_BS, 2 * once_BS)


@given(case=strategies.token_batches(dtypes=ONE_DTYPE, packed=False), gamma=formula_settings.DISCOUNTS)
def test_returns_with_lambda_one_do_not_depend_on_the_values(case: Case, gamma: float) -> None:
    """At lambda = 1 they are the discounted sums of the rewards."""
    case = case.with_padding(0.0)
    options = {"gamma": gamma, "gae_lambda": 1.0}
    actual_BS = gae_returns(case.reward_BS, case.value_BS, case.valid_BS, **options)
    without_BS = gae_returns(case.reward_BS, torch.zeros_like(case.value_BS), case.valid_BS, **options)
    torch.testing.assert_close(actual_BS, without_BS, rtol=0, atol=1e-9)


@given(case=strategies.token_batches(dtypes=ONE_DTYPE), gamma=formula_settings.DISCOUNTS)
def test_exact_values_are_their_own_returns(case: Case, gamma: float) -> None:
    """A value head that is right is a fixed point for every lambda: the target is what it says."""
    options = decays(case, gamma, 1.0)
    exact_BS = gae_returns(case.reward_BS, torch.zeros_like(case.value_BS), case.valid_BS, **options)
    again_BS = gae_returns(case.reward_BS, exact_BS, case.valid_BS, **{**options, "gae_lambda": 0.6})
    torch.testing.assert_close(again_BS, exact_BS, rtol=0, atol=1e-9)


@given(case=strategies.token_batches(dtypes=ONE_DTYPE, packed=False), gamma=formula_settings.DISCOUNTS)
def test_packed_documents_have_the_returns_they_have_alone(case: Case, gamma: float) -> None:
    """Rows packed one behind the other into a single row, as documents, get the same targets."""
    rows, positions = case.valid_BS.shape
    joined = [tensor_BS.reshape(1, -1) for tensor_BS in (case.reward_BS, case.value_BS, case.valid_BS)]
    document_BS = torch.arange(rows).flip(0).repeat_interleave(positions)[None]
    packed_BS = gae_returns(*joined, gamma=gamma, document_BS=document_BS).reshape(rows, positions)
    alone_BS = gae_returns(case.reward_BS, case.value_BS, case.valid_BS, gamma=gamma)
    torch.testing.assert_close(packed_BS, alone_BS, rtol=0, atol=1e-12)


@given(case=strategies.token_batches(), placement=PLACEMENTS)
def test_placed_rewards_equal_the_reference(case: Case, placement: str) -> None:
    """One reward a row, given to each of its documents; within one rounding."""
    actual_BS = place_rewards(case.reward_B, case.valid_BS, placement, document_BS=case.document_BS)
    expected_BS = oracles.place_rewards(case.reward_B, case.valid_BS, placement, case.document_BS)
    assert float((actual_BS - expected_BS).abs().max()) <= tolerances.placed_reward(case.reward_B)


@given(valid_BS=strategies.masks(), placement=PLACEMENTS, data=st.data())
def test_rewards_of_documents_land_in_their_documents(valid_BS: Tensor, placement: str, data: st.DataObject) -> None:
    """Float[B, D]: document d of a row gets column d."""
    documents = data.draw(st.integers(1, 4))
    row = st.lists(st.integers(0, documents - 1), min_size=valid_BS.shape[1], max_size=valid_BS.shape[1]).map(sorted)
    document_BS = torch.tensor(data.draw(st.lists(row, min_size=len(valid_BS), max_size=len(valid_BS))))
    reward_BD = torch.randn(len(valid_BS), documents, generator=torch.Generator().manual_seed(documents))
    actual_BS = place_rewards(reward_BD, valid_BS, placement, document_BS=document_BS)
    expected_BS = oracles.place_rewards(reward_BD, valid_BS, placement, document_BS)
    assert float((actual_BS - expected_BS).abs().max()) <= tolerances.placed_reward(reward_BD)


@given(valid_BS=strategies.masks(), placement=PLACEMENTS)
def test_placing_neither_loses_nor_makes_reward(valid_BS: Tensor, placement: str) -> None:
    """A row's placed rewards sum to its reward where it has a real token, to 0 where it has none; none at padding."""
    reward_B = torch.arange(1, len(valid_BS) + 1).double()
    placed_BS = place_rewards(reward_B, valid_BS, placement)
    torch.testing.assert_close(placed_BS.sum(1), reward_B * valid_BS.any(1), rtol=0, atol=1e-12)
    assert placed_BS[~valid_BS].unique().tolist() in ([0.0], [])


def test_unknown_placement_is_refused_with_the_nearest() -> None:
    """A slip of the pen is named."""
    with pytest.raises(ValueError, match=r"'terminl'.*terminal, uniform.*did you mean 'terminal'"):
        place_rewards(torch.ones(1), torch.ones(1, 2, dtype=torch.bool), "terminl")


@pytest.mark.parametrize("name", ["gamma", "gae_lambda"])
@pytest.mark.parametrize("number", [-0.1, 1.1, float("nan"), float("inf"), True, "0.9"])
def test_discounts_outside_their_interval_are_refused(name: str, number: object) -> None:
    """The error names the discount."""
    value_BS = torch.ones(1, 2)
    with pytest.raises(ValueError, match=name):
        gae_returns(value_BS, value_BS, value_BS.bool(), **{name: number})


@pytest.mark.parametrize(("reward", "value"), [((1, 3), (1, 2)), ((1, 2), (1, 3)), ((2, 2), (1, 2))])
def test_returns_of_disagreeing_shapes_are_refused(reward: tuple[int, ...], value: tuple[int, ...]) -> None:
    """Nothing is broadcast in silence."""
    with pytest.raises(ValueError, match=r"(reward|value)_BS has shape"):
        gae_returns(torch.ones(reward), torch.ones(value), torch.ones(1, 2, dtype=torch.bool))
