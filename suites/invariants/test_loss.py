"""What must hold of the trainer's main loss for every mask, horizon, weight and dtype of logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradgate import strategies
from gradgate.checks import oracles, tolerances
from gradgate.checks.cases import Case
from wmtp import wmtp_loss

VOCABULARY = 60
SEEDS = st.integers(0, 2**20)
EXACT = strategies.token_batches(dtypes=st.just(torch.float64))


def drawn(case: Case, seed: int, *, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Logits that want a gradient, labels, and weights that are any numbers in [0, 1] at valid heads."""
    rng = torch.Generator().manual_seed(seed)
    label_BSH = case.labels
    logits_BSHV = scale * torch.randn(*label_BSH.shape, VOCABULARY, generator=rng, dtype=torch.float64)
    weight_BSH = torch.rand(label_BSH.shape, generator=rng, dtype=torch.float64) * (label_BSH != -100)
    return logits_BSHV.to(dtype).requires_grad_(), label_BSH, weight_BSH.requires_grad_()


@given(case=EXACT, seed=SEEDS, scale=st.sampled_from([0.1, 3.0, 1e4]))
def test_loss_equals_the_reference(case: Case, seed: int, scale: float) -> None:
    """The mean over positions with a valid head of the weighted cross-entropies, whatever the size of the logits."""
    logits_BSHV, label_BSH, weight_BSH = drawn(case, seed, scale=scale)
    expected = oracles.wmtp_loss(logits_BSHV, label_BSH, weight_BSH)
    allowed = tolerances.loss(logits_BSHV, int((label_BSH != -100).any(-1).sum()))
    assert abs(float(wmtp_loss(logits_BSHV, label_BSH, weight_BSH).detach() - expected.detach())) <= allowed


@given(case=EXACT, seed=SEEDS)
def test_gradients_of_the_loss_equal_the_reference(case: Case, seed: int) -> None:
    """With respect to logits and weights; exactly 0 where there is no label."""
    logits_BSHV, label_BSH, weight_BSH = drawn(case, seed)
    leaves = (logits_BSHV, weight_BSH)
    actual = torch.autograd.grad(wmtp_loss(logits_BSHV, label_BSH, weight_BSH), leaves)
    expected_loss = oracles.wmtp_loss(logits_BSHV, label_BSH, weight_BSH)
    expected = [torch.zeros_like(leaf) for leaf in leaves]
    if expected_loss.requires_grad:
        expected = list(torch.autograd.grad(expected_loss, leaves))
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        assert ours[label_BSH == -100].unique().tolist() in ([0.0], [])


@given(case=EXACT, seed=SEEDS, garbage=st.sampled_from([-1e4, 0.0, 1e4, 1e30]))
def test_loss_does_not_see_logits_without_a_label(case: Case, seed: int, garbage: float) -> None:
    """What the model says where there is nothing to predict changes no bit."""
    logits_BSHV, label_BSH, weight_BSH = drawn(case, seed)
    other_BSHV = torch.where((label_BSH == -100)[..., None], garbage, logits_BSHV.detach())
    assert torch.equal(wmtp_loss(other_BSHV, label_BSH, weight_BSH), wmtp_loss(logits_BSHV, label_BSH, weight_BSH))


@given(case=EXACT, seed=SEEDS, factor=st.sampled_from([0.0, 0.5, 2.0, 1024.0]))
def test_loss_is_linear_in_the_weights(case: Case, seed: int, factor: float) -> None:
    """Weights times c are loss times c: nothing renormalises them."""
    logits_BSHV, label_BSH, weight_BSH = drawn(case, seed)
    scaled = wmtp_loss(logits_BSHV, label_BSH, factor * weight_BSH)
    assert torch.equal(scaled, factor * wmtp_loss(logits_BSHV, label_BSH, weight_BSH))


@given(case=EXACT, seed=SEEDS, copies=st.integers(2, 4))
def test_loss_of_a_repeated_batch_is_the_loss_of_the_batch(case: Case, seed: int, copies: int) -> None:
    """It is a mean over positions, not a sum."""
    logits_BSHV, label_BSH, weight_BSH = drawn(case, seed)
    repeated = [torch.cat([tensor] * copies) for tensor in (logits_BSHV, label_BSH, weight_BSH)]
    once = wmtp_loss(logits_BSHV, label_BSH, weight_BSH)
    torch.testing.assert_close(wmtp_loss(*repeated), once, rtol=1e-12, atol=1e-12)


@given(case=strategies.token_batches(), seed=SEEDS, dtype=strategies.DTYPES)
def test_loss_is_taken_in_at_least_float32(case: Case, seed: int, dtype: torch.dtype) -> None:
    """Half precision logits cost nothing beyond their own rounding."""
    logits_BSHV, label_BSH, weight_BSH = drawn(case, seed, dtype=dtype)
    weight_BSH = weight_BSH.detach().to(tolerances.working_dtype(dtype))
    loss = wmtp_loss(logits_BSHV, label_BSH, weight_BSH)
    expected = oracles.wmtp_loss(logits_BSHV, label_BSH, weight_BSH)
    wide_BSHV = logits_BSHV.to(tolerances.working_dtype(dtype))
    allowed = tolerances.loss(wide_BSHV, int((label_BSH != -100).any(-1).sum()))
    assert loss.dtype == tolerances.working_dtype(dtype)
    assert abs(float(loss.detach()) - float(expected.detach())) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_loss_without_a_label_is_an_attached_zero(dtype: torch.dtype) -> None:
    """Exactly 0, on the graph, with a gradient of exactly 0."""
    logits_BSHV = torch.randn(2, 3, 2, 5).to(dtype).requires_grad_()
    loss = wmtp_loss(logits_BSHV, torch.full((2, 3, 2), -100), torch.zeros(2, 3, 2))
    loss.backward()
    assert loss.item() == 0.0
    assert logits_BSHV.grad is not None and not logits_BSHV.grad.any()


@pytest.mark.parametrize("wrong", ["label_BSH", "weight_BSH", "logits_BSHV"])
def test_loss_of_disagreeing_shapes_is_refused(wrong: str) -> None:
    """Nothing is broadcast in silence; the error names the argument."""
    arguments = {
        "logits_BSHV": torch.zeros(1, 3, 2, 5),
        "label_BSH": torch.zeros(1, 3, 2, dtype=torch.long),
        "weight_BSH": torch.zeros(1, 3, 2),
    }
    arguments[wrong] = arguments[wrong][:, :, :1] if wrong != "logits_BSHV" else arguments[wrong][..., 0]
    with pytest.raises(ValueError, match=r"(label_BSH|weight_BSH|logits_BSHV) has shape"):
        wmtp_loss(**arguments)
