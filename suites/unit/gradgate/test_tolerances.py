"""The derived bounds: wide enough for any stable implementation, narrow enough for a fault."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures import broken_functions, formula_settings
from gradgate import strategies
from gradgate.checks import oracles, tolerances
from gradgate.checks.cases import Case


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 1e-3), (torch.float16, 1e-3)],
)
def test_weight_sum_bound_is_the_specification(dtype: torch.dtype, expected: float) -> None:
    """1e-6 for float32 (and float64) values, 1e-3 for half precision."""
    assert tolerances.weight_sum(dtype) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, 2.0**-53), (torch.float32, 2.0**-24), (torch.bfloat16, 2.0**-24), (torch.float16, 2.0**-24)],
)
def test_roundoff_is_that_of_the_dtype_that_must_compute(dtype: torch.dtype, expected: float) -> None:
    """Half precision input is computed in float32."""
    assert tolerances.roundoff(dtype) == expected


def test_weight_bound_grows_with_the_values_and_falls_with_the_temperature() -> None:
    """12 u m / tau + 2 (H + 6) u, by hand: m = 1 + 0.5 at the only head, H = 1."""
    value_BS, valid_BS = torch.tensor([[1.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
    u = 2.0**-24
    for temperature in (0.1, 1.0, 10.0):
        bound = tolerances.head_weight(value_BS, valid_BS, 1, discount_lambda=0.5, temperature=temperature)
        assert float(bound[0, 0, 0]) == pytest.approx(12 * u * 1.5 / temperature + 14 * u)


def test_weight_bound_never_exceeds_one() -> None:
    """Weights lie in [0, 1]; no bound says less than that."""
    value_BS, valid_BS = torch.full((1, 2), 1e30), torch.ones(1, 2, dtype=torch.bool)
    bound = tolerances.head_weight(value_BS, valid_BS, 1, discount_lambda=0.5, temperature=0.1)
    assert float(bound.max()) == 1.0


def test_weight_bound_of_half_precision_is_the_specification() -> None:
    """At least 1e-3 for bfloat16 and float16 values."""
    valid_BS = torch.ones(1, 2, dtype=torch.bool)
    value_BS = torch.ones(1, 2, dtype=torch.bfloat16)
    bound = tolerances.head_weight(value_BS, valid_BS, 1, discount_lambda=0.5, temperature=1.0)
    assert float(bound.min()) == 1e-3


@given(
    case=strategies.token_batches(dtypes=strategies.DTYPES),
    settings=formula_settings.settings(),
    direction_seed=st.integers(0, 2**20),
)
def test_a_stable_implementation_stays_inside(
    case: Case, settings: formula_settings.Settings, direction_seed: int
) -> None:
    """Weights and their gradients of the vectorised twin, in the dtype that it must use, are within the bounds."""
    options = {
        "discount_lambda": settings.discount_lambda,
        "temperature": settings.temperature,
        "document_BS": case.document_BS,
    }
    label_BSH, case = case.labels, case.tracked()
    exact_BS = case.value_BS.detach().double().requires_grad_()
    expected_BSH = oracles.head_weights(exact_BS, label_BSH, case.valid_BS, **options)
    weight_BSH = broken_functions.weights(case.value_BS, label_BSH, case.valid_BS, **options)
    bound = tolerances.head_weight(case.value_BS, case.valid_BS, case.horizon, **options)
    assert bool(((weight_BSH - expected_BSH).abs() <= bound).all())
    if case.value_BS.dtype in tolerances.HALF or not expected_BSH.requires_grad:
        return
    direction_BSH = (
        2 * torch.rand(label_BSH.shape, generator=torch.Generator().manual_seed(direction_seed)).double() - 1
    )
    (expected_BS,) = torch.autograd.grad((direction_BSH * expected_BSH).sum(), exact_BS)
    (actual_BS,) = torch.autograd.grad((direction_BSH * weight_BSH).sum(), case.value_BS)
    allowed = tolerances.weight_gradient(
        float(bound.max()), case.horizon, temperature=settings.temperature, direction=1.0, dtype=case.value_BS.dtype
    )
    assert float((actual_BS - expected_BS)[case.valid_BS].abs().max()) <= allowed


@given(
    case=strategies.token_batches(dtypes=strategies.DTYPES),
    gamma=formula_settings.DISCOUNTS,
    gae_lambda=formula_settings.DISCOUNTS,
)
def test_stable_returns_stay_inside(case: Case, gamma: float, gae_lambda: float) -> None:
    """Returns of the vectorised twin, in float32 or float64, are within the bound."""
    options = {"gamma": gamma, "gae_lambda": gae_lambda, "document_BS": case.document_BS}
    arguments = (case.reward_BS, case.value_BS, case.valid_BS)
    error_BS = (broken_functions.returns(*arguments, **options) - oracles.gae_returns(*arguments, **options)).abs()
    assert bool((error_BS <= tolerances.returns(*arguments)).all())


@given(case=strategies.token_batches(dtypes=st.just(torch.float32)), scale=st.sampled_from([0.1, 3.0, 1e4]))
def test_a_stable_loss_stays_inside(case: Case, scale: float) -> None:
    """The loss of the vectorised twin, in float32, is within the bound, whatever the size of the logits."""
    label_BSH = case.labels
    vocabulary = case.token_BS.numel()
    logits_BSHV = scale * torch.randn(*label_BSH.shape, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    weight_BSH = broken_functions.always_uniform(logits_BSHV[..., 0], label_BSH != -100, 1.0)
    actual = broken_functions.loss(logits_BSHV, label_BSH, weight_BSH)
    expected = oracles.wmtp_loss(logits_BSHV, label_BSH, weight_BSH)
    positions = int((label_BSH != -100).any(-1).sum())
    assert abs(float(actual) - float(expected)) <= tolerances.loss(logits_BSHV, positions)


def test_loss_bound_follows_the_dtype_of_the_logits() -> None:
    """A loss taken in bfloat16 is allowed bfloat16's roundings: 2**16 times float32's."""
    wide = torch.ones(1, 1, 1, 4)
    assert tolerances.loss(wide.bfloat16(), 1) == tolerances.loss(wide, 1) * 2**16


def test_bounds_of_nothing_are_zero() -> None:
    """Without a real token nothing may differ."""
    nothing = torch.zeros(0, 3)
    assert tolerances.returns(nothing, nothing, nothing.bool()) == 0.0
    assert tolerances.returns(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)) == 0.0
    assert tolerances.placed_reward(torch.zeros(0)) == 0.0


def test_placed_reward_may_round_once() -> None:
    """Twice float32's eps of the largest reward."""
    assert tolerances.placed_reward(torch.tensor([1.0, -4.0])) == 2 * 2.0**-23 * 4.0


@given(
    gap=st.floats(0.05, 10.0),
    spread=st.floats(0.0, 5.0),
    temperature=st.sampled_from([1e-30, 1e-3, 0.1, 1.0, 1e6]),
    horizon=st.integers(2, 6),
)
def test_limits_hold_for_an_exact_softmax(gap: float, spread: float, temperature: float, horizon: int) -> None:
    """A float64 softmax with this lead, or this spread, is no further from one-hot, or from uniform."""
    led_H = torch.tensor([0.0] + [-gap] * (horizon - 1), dtype=torch.float64)
    best = float(torch.softmax(led_H / temperature, dim=-1)[0])
    assert 1 - best <= tolerances.argmax_limit(gap, temperature, horizon) + 1e-15
    spread_H = torch.linspace(0.0, spread, horizon, dtype=torch.float64)
    away = float((torch.softmax(spread_H / temperature, dim=-1) - 1 / horizon).abs().max())
    assert away <= tolerances.uniform_limit(spread, temperature) + 1e-15


def test_argmax_limit_does_not_underflow_into_an_error() -> None:
    """A lead of 1 at temperature 1e-300 gives a bound of practically 0, not an overflow."""
    assert 0.0 < tolerances.argmax_limit(1.0, 1e-300, 4) < 1e-300
    assert tolerances.argmax_limit(math.inf, 0.7, 4) < 1e-300
