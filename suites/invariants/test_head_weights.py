"""What must hold of the trainer's head weights for every batch, mask, packing, dtype, temperature and horizon."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fixtures import formula_settings
from fixtures.formula_settings import Settings
from gradgate import strategies
from gradgate.checks import oracles, tolerances
from gradgate.checks.cases import Case
from wmtp import head_weights

ONE_DTYPE = st.just(torch.float64)


def options(case: Case, settings: Settings) -> dict[str, Any]:
    return {
        "discount_lambda": settings.discount_lambda,
        "temperature": settings.temperature,
        "document_BS": case.document_BS,
    }


def weigh(case: Case, settings: Settings) -> Tensor:
    return head_weights(case.value_BS, case.labels, case.valid_BS, **options(case, settings))


def gradient(output_BSH: Tensor, value_BS: Tensor, seed: int) -> Tensor:
    """Of a random combination of weights, the same one for the same shape and seed."""
    factor_BSH = torch.randn(output_BSH.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if not output_BSH.requires_grad:
        return torch.zeros_like(value_BS)
    return torch.autograd.grad((factor_BSH * output_BSH).sum(), value_BS)[0]


@given(case=strategies.token_batches(dtypes=strategies.DTYPES), settings=formula_settings.settings())
def test_head_weights_sum_to_one_where_a_head_is_valid(case: Case, settings: Settings) -> None:
    """1 within 1e-6, or 1e-3 for half precision values; exactly 0 at invalid heads, so 0 where none is valid."""
    legal_BSH = case.labels != -100
    weight_BSH = weigh(case, settings)
    error_BS = (weight_BSH.double().sum(-1) - legal_BSH.any(-1).double()).abs()
    assert float(error_BS.max()) <= tolerances.weight_sum(case.value_BS.dtype)
    assert weight_BSH[~legal_BSH].unique().tolist() in ([0.0], [])


@given(case=strategies.token_batches(dtypes=strategies.DTYPES), settings=formula_settings.settings())
def test_head_weights_are_float32_or_float64(case: Case, settings: Settings) -> None:
    """float64 stays float64; everything else is weighed in float32."""
    assert weigh(case, settings).dtype == tolerances.working_dtype(case.value_BS.dtype)


@given(case=strategies.token_batches(dtypes=strategies.DTYPES), settings=formula_settings.settings())
def test_head_weights_equal_the_reference(case: Case, settings: Settings) -> None:
    """Within the derived bound of the literal formula."""
    expected_BSH = oracles.head_weights(case.value_BS, case.labels, case.valid_BS, **options(case, settings))
    allowed_BS1 = tolerances.head_weight(case.value_BS, case.valid_BS, case.horizon, **options(case, settings))
    assert bool(((weigh(case, settings) - expected_BSH).abs() <= allowed_BS1).all())


@given(case=strategies.token_batches(dtypes=ONE_DTYPE), settings=formula_settings.settings(), seed=st.integers(0, 99))
def test_gradient_of_the_head_weights_equals_the_reference(case: Case, settings: Settings, seed: int) -> None:
    """Autograd through the trainer's form and through the literal one agree; at padding the gradient is exactly 0."""
    case, exact_BS = case.tracked(), case.value_BS.detach().clone().requires_grad_()
    expected_BSH = oracles.head_weights(exact_BS, case.labels, case.valid_BS, **options(case, settings))
    actual_BS = gradient(weigh(case, settings), case.value_BS, seed)
    expected_BS = gradient(expected_BSH, exact_BS, seed)
    torch.testing.assert_close(actual_BS, expected_BS, rtol=1e-9, atol=1e-11 / settings.temperature)
    assert actual_BS[~case.valid_BS].unique().tolist() in ([0.0], [])


@given(case=strategies.token_batches(), settings=formula_settings.settings(), seed=st.integers(0, 99))
def test_head_weights_never_read_padding(case: Case, settings: Settings, seed: int) -> None:
    """NaN, infinities and large numbers at padding change neither weights nor gradients, in any bit."""
    clean, case = case.with_padding(0.0).tracked(), case.tracked()
    clean_BSH, weight_BSH = weigh(clean, settings), weigh(case, settings)
    assert torch.equal(weight_BSH, clean_BSH)
    assert torch.equal(gradient(weight_BSH, case.value_BS, seed), gradient(clean_BSH, clean.value_BS, seed))


@given(case=strategies.token_batches(dtypes=ONE_DTYPE), settings=formula_settings.settings(), data=st.data())
def test_head_weights_follow_the_labels_that_are_left(case: Case, settings: Settings, data: st.DataObject) -> None:
    """Labels may be taken away (prompt tokens under train_on: completion): the values there still make the deltas."""
    seed = data.draw(st.integers(0, 2**20))
    kept_BSH = torch.rand(*case.valid_BS.shape, case.horizon, generator=torch.Generator().manual_seed(seed)) < 0.5
    label_BSH = torch.where(kept_BSH, case.labels, -100)
    expected_BSH = oracles.head_weights(case.value_BS, label_BSH, case.valid_BS, **options(case, settings))
    actual_BSH = head_weights(case.value_BS, label_BSH, case.valid_BS, **options(case, settings))
    torch.testing.assert_close(actual_BSH, expected_BSH, rtol=0, atol=1e-9)


@given(
    case=strategies.token_batches(dtypes=ONE_DTYPE),
    settings=formula_settings.settings(),
    left=st.integers(0, 4),
    right=st.integers(0, 4),
)
def test_head_weights_do_not_depend_on_padding(case: Case, settings: Settings, left: int, right: int) -> None:
    """More columns of padding on either side leave the weights of the real tokens as they are."""

    def wider(tensor_BS: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(tensor_BS, (left, right), value=fill)

    document_BS = None if case.document_BS is None else wider(case.document_BS, -1)
    padded = dataclasses.replace(
        case,
        token_BS=wider(case.token_BS, 0),
        valid_BS=wider(case.valid_BS, False),
        value_BS=wider(case.value_BS, 9.0),
        document_BS=document_BS,
    )
    positions = case.valid_BS.shape[1]
    inner_BSH = weigh(padded, settings)[:, left : left + positions]
    torch.testing.assert_close(inner_BSH, weigh(case, settings), rtol=0, atol=1e-12)


@given(case=strategies.token_batches(dtypes=ONE_DTYPE), settings=formula_settings.settings())
def test_head_weights_of_a_row_do_not_depend_on_other_rows(case: Case, settings: Settings) -> None:
    """Each row weighs alone what it weighs in the batch."""
    together_BSH = weigh(case, settings)
    for row in range(len(together_BSH)):
        alone = {
            field.name: tensor[row : row + 1]
            for field in dataclasses.fields(case)
            if isinstance(tensor := getattr(case, field.name), Tensor)
        }
        alone_1SH = weigh(dataclasses.replace(case, **alone), settings)
        torch.testing.assert_close(alone_1SH[0], together_BSH[row], rtol=0, atol=1e-12)


@given(case=strategies.token_batches(dtypes=ONE_DTYPE, packed=False), settings=formula_settings.settings())
def test_packed_documents_weigh_what_they_weigh_alone(case: Case, settings: Settings) -> None:
    """Rows packed one behind the other into a single row, as documents, get the same weights."""
    rows, positions = case.valid_BS.shape

    def joined(tensor_BS: Tensor) -> Tensor:
        return tensor_BS.reshape(1, rows * positions)

    packed = dataclasses.replace(
        case,
        token_BS=joined(case.token_BS),
        valid_BS=joined(case.valid_BS),
        value_BS=joined(case.value_BS),
        document_BS=torch.arange(rows).flip(0).repeat_interleave(positions)[None],
    )
    packed_BSH = weigh(packed, settings).reshape(rows, positions, case.horizon)
    torch.testing.assert_close(packed_BSH, weigh(case, settings), rtol=0, atol=1e-12)


@given(
    case=strategies.token_batches(dtypes=ONE_DTYPE), settings=formula_settings.settings(), factor=st.floats(0.1, 10.0)
)
def test_head_weights_depend_on_value_over_temperature(case: Case, settings: Settings, factor: float) -> None:
    """Values and temperature in another unit give the same weights."""
    scaled = dataclasses.replace(case, value_BS=case.value_BS * factor)
    scaled_settings = dataclasses.replace(settings, temperature=settings.temperature * factor)
    torch.testing.assert_close(weigh(scaled, scaled_settings), weigh(case, settings), rtol=0, atol=1e-9)


@given(
    case=strategies.token_batches(dtypes=ONE_DTYPE),
    settings=formula_settings.settings(),
    shift=st.floats(-100.0, 100.0),
)
def test_head_weights_do_not_see_a_common_value_without_lambda(case: Case, settings: Settings, shift: float) -> None:
    """At lambda = 0 the deltas are the values, and a softmax does not see what they have in common."""
    settings = dataclasses.replace(settings, discount_lambda=0.0)
    shifted = dataclasses.replace(case, value_BS=case.value_BS + shift)
    atol = 1e-12 * (1 + abs(shift)) * (1 + 1 / settings.temperature)
    torch.testing.assert_close(weigh(shifted, settings), weigh(case, settings), rtol=0, atol=atol)


@given(case=strategies.token_batches(dtypes=ONE_DTYPE), temperature=st.sampled_from([1e-3, 1e-30, 1e-300]))
def test_cold_head_weights_are_one_hot_at_the_largest_delta(case: Case, temperature: float) -> None:
    """Towards temperature 0 all weight goes to the largest delta, and nothing overflows."""
    settings = Settings(0.95, temperature)
    weight_BSH, label_BSH = weigh(case, settings), case.labels
    delta_BS = oracles.deltas(case.value_BS, case.valid_BS, discount_lambda=0.95, document_BS=case.document_BS)
    ahead_BSH = torch.nn.functional.pad(delta_BS, (0, case.horizon)).unfold(1, case.horizon, 1)[:, 1:]
    ranked_BSH = ahead_BSH.masked_fill(label_BSH == -100, -torch.inf).sort(-1, descending=True)
    leads_BS = (label_BSH != -100).any(-1)
    if case.horizon > 1:
        leads_BS &= ranked_BSH.values[..., 0] - ranked_BSH.values[..., 1] > 40 * temperature
    assert bool(weight_BSH.isfinite().all())
    best_BS = weight_BSH.gather(-1, ranked_BSH.indices[..., :1])[..., 0]
    assert bool((best_BS[leads_BS] >= 1 - 1e-12).all())


@given(case=strategies.token_batches(dtypes=ONE_DTYPE))
def test_hot_head_weights_are_uniform_over_the_valid_heads(case: Case) -> None:
    """Towards an infinite temperature every valid head weighs the same."""
    legal_BSH = case.labels != -100
    uniform_BSH = legal_BSH.double() / legal_BSH.sum(-1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(weigh(case, Settings(0.95, 1e12)), uniform_BSH, rtol=0, atol=1e-9)


@pytest.mark.parametrize("positions", [2, 64, 512])
def test_graph_of_the_head_weights_does_not_grow_with_the_row(positions: int) -> None:
    """At most 20 autograd nodes at any length: no loop over positions or heads."""
    value_BS = torch.randn(2, positions, requires_grad=True)
    valid_BS = torch.ones(2, positions, dtype=torch.bool)
    label_BSH = oracles.labels(torch.arange(2 * positions).reshape(2, positions), valid_BS, 4)
    nodes, waiting = set(), [head_weights(value_BS, label_BSH, valid_BS).grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [behind for behind, _ in node.next_functions]
    assert len(nodes) <= 20
