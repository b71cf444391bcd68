"""The literal references against numbers worked out on paper, and against what must hold of any right answer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fixtures import broken_functions, formula_settings
from gradgate import strategies
from gradgate.checks import oracles
from gradgate.checks.cases import Case
from gradgate.core.errors import ShapeError

NAN = float("nan")


def mask(*rows: str) -> Tensor:
    """`mask("##.#")`: real, real, padding, real."""
    return torch.tensor([[sign == "#" for sign in row] for row in rows])


def test_labels_are_the_tokens_ahead() -> None:
    """Head k at position t predicts token t+k+1, and -100 beyond the row."""
    label_BSH = oracles.labels(torch.tensor([[5, 6, 7]]), mask("###"), 2)
    assert label_BSH.tolist() == [[[6, 7], [7, -100], [-100, -100]]]


def test_labels_count_positions_and_do_not_close_gaps() -> None:
    """A gap is stepped over by the offset, not closed up; padding at either end gives -100."""
    label_BSH = oracles.labels(torch.tensor([[5, 6, 7, 8]]), mask("#.##"), 3)
    assert label_BSH.tolist() == [[[-100, 7, 8], [-100, -100, -100], [8, -100, -100], [-100, -100, -100]]]


def test_labels_stay_in_their_document() -> None:
    """No head predicts a token of another document."""
    document_BS = torch.tensor([[9, 9, -4, -4]])
    label_BSH = oracles.labels(torch.tensor([[5, 6, 7, 8]]), mask("####"), 2, document_BS)
    assert label_BSH.tolist() == [[[6, -100], [-100, -100], [8, -100], [-100, -100]]]


def test_deltas_bridge_gaps_and_start_from_zero() -> None:
    """The previous value is that of the previous real token, 0 before the first; padding's is never used."""
    value_BS = torch.tensor([[NAN, 2.0, NAN, 3.0, 5.0]])
    delta_BS = oracles.deltas(value_BS, mask(".#.##"), discount_lambda=0.5)
    assert delta_BS.tolist() == [[0.0, 2.0, 0.0, 2.0, 3.5]]


def test_deltas_start_anew_with_each_document() -> None:
    """A document is a row of its own."""
    value_BS = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    delta_BS = oracles.deltas(value_BS, mask("####"), discount_lambda=1.0, document_BS=torch.tensor([[7, 7, 1, 1]]))
    assert delta_BS.tolist() == [[1.0, 1.0, 3.0, 1.0]]


def test_head_weights_are_the_softmax_of_the_deltas_ahead() -> None:
    """v = 0, ln 2, ln 6 without lambda: position 0 weighs its heads 2 : 6; position 1 has one head; position 2 none."""
    value_BS = torch.tensor([[0.0, math.log(2.0), math.log(6.0)]], dtype=torch.float64)
    label_BSH = oracles.labels(torch.tensor([[1, 2, 3]]), mask("###"), 2)
    weight_BSH = oracles.head_weights(value_BS, label_BSH, mask("###"), discount_lambda=0.0, temperature=1.0)
    assert weight_BSH[0].flatten().tolist() == pytest.approx([0.25, 0.75, 1.0, 0.0, 0.0, 0.0], abs=1e-15)


def test_head_weights_divide_by_the_temperature() -> None:
    """At temperature 2, deltas 0 and ln 9 weigh 1 : 3."""
    value_BS = torch.tensor([[5.0, 0.0, math.log(9.0)]], dtype=torch.float64)
    label_BSH = oracles.labels(torch.tensor([[1, 2, 3]]), mask("###"), 2)
    weight_BSH = oracles.head_weights(value_BS, label_BSH, mask("###"), discount_lambda=0.0, temperature=2.0)
    assert weight_BSH[0, 0].tolist() == pytest.approx([0.25, 0.75], abs=1e-15)


def test_gradient_of_the_head_weights_is_that_of_a_softmax() -> None:
    """d w0 / d delta0 = w0 (1 - w0) / tau: weights 1/4 and 3/4 at tau 0.5 give 3/8, and -3/8 for the other."""
    value_BS = torch.tensor([[0.0, 0.0, 0.5 * math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    label_BSH = oracles.labels(torch.tensor([[1, 2, 3]]), mask("###"), 2)
    weight_BSH = oracles.head_weights(value_BS, label_BSH, mask("###"), discount_lambda=0.0, temperature=0.5)
    (gradient_BS,) = torch.autograd.grad(weight_BSH[0, 0, 0], value_BS)
    assert gradient_BS[0].tolist() == pytest.approx([0.0, 0.375, -0.375], abs=1e-15)


def test_loss_is_the_mean_over_positions_of_the_weighted_cross_entropies() -> None:
    """Logits (0, ln 3): label 0 costs ln 4, label 1 ln(4/3); two positions count, the third has no valid head."""
    logits_BSHV = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64).expand(1, 3, 2, 2)
    label_BSH = torch.tensor([[[0, 1], [1, -100], [-100, -100]]])
    weight_BSH = torch.tensor([[[0.25, 0.75], [1.0, 9.0], [9.0, 9.0]]])
    expected = (0.25 * math.log(4) + 0.75 * math.log(4 / 3) + math.log(4 / 3)) / 2
    assert float(oracles.wmtp_loss(logits_BSHV, label_BSH, weight_BSH)) == pytest.approx(expected, abs=1e-15)


def test_loss_without_a_label_is_zero() -> None:
    """Nothing to predict costs nothing."""
    loss = oracles.wmtp_loss(torch.randn(1, 2, 2, 3), torch.full((1, 2, 2), -100), torch.zeros(1, 2, 2))
    assert loss.item() == 0.0


def test_returns_follow_the_recursion_from_the_end() -> None:
    """gamma 0.5, lambda 0.5: by hand from the last token, over a gap, with NaN at padding."""
    reward_BS = torch.tensor([[1.0, NAN, 2.0, 4.0]])
    value_BS = torch.tensor([[2.0, NAN, 4.0, 8.0]])
    # last: error 4 - 8 = -4, return 4. middle: error 2 + 4 - 4 = 2, advantage 2 - 1 = 1, return 5.
    # first: error 1 + 2 - 2 = 1, advantage 1 + 0.25 = 1.25, return 3.25.
    return_BS = oracles.gae_returns(reward_BS, value_BS, mask("#.##"), gamma=0.5, gae_lambda=0.5)
    assert return_BS.tolist() == [[3.25, 0.0, 5.0, 4.0]]


def test_returns_of_packed_documents_do_not_see_each_other() -> None:
    """With gamma = lambda = 1 a return is the sum of its document's rewards from there on."""
    document_BS = torch.tensor([[4, 4, 2]])
    return_BS = oracles.gae_returns(
        torch.tensor([[1.0, 2.0, 4.0]]),
        torch.ones(1, 3),
        mask("###"),
        gamma=1.0,
        gae_lambda=1.0,
        document_BS=document_BS,
    )
    assert return_BS.tolist() == [[3.0, 2.0, 4.0]]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [("terminal", [[0.0, 0.0, 6.0, 0.0], [0.0] * 4]), ("uniform", [[3.0, 0.0, 3.0, 0.0], [0.0] * 4])],
)
def test_rewards_land_on_real_tokens(placement: str, expected: list[list[float]]) -> None:
    """Terminal: all on the last real token; uniform: r/n on each; a row of padding gets none."""
    reward_BS = oracles.place_rewards(torch.tensor([6.0, 5.0]), mask("#.#.", "...."), placement)
    assert reward_BS.tolist() == expected


def test_every_document_gets_its_own_reward() -> None:
    """Float[B, D]: document d of row b gets reward[b, d]; Float[B]: each document gets the row's."""
    document_BS = torch.tensor([[1, 1, 0]])
    by_document = oracles.place_rewards(torch.tensor([[3.0, 5.0]]), mask("###"), "terminal", document_BS)
    by_row = oracles.place_rewards(torch.tensor([7.0]), mask("###"), "terminal", document_BS)
    assert (by_document.tolist(), by_row.tolist()) == ([[0.0, 5.0, 3.0]], [[0.0, 7.0, 7.0]])


def test_rewards_by_document_need_documents() -> None:
    """Two dimensions of reward without documents are refused."""
    with pytest.raises(ShapeError, match="give document_BS"):
        oracles.place_rewards(torch.ones(1, 2), mask("##"), "terminal")


def test_rewards_know_two_placements() -> None:
    """Anything else is refused by its name."""
    with pytest.raises(ValueError, match="expected 'terminal' or 'uniform'"):
        oracles.place_rewards(torch.ones(1), mask("##"), "middle")


@given(case=strategies.token_batches(), settings=formula_settings.settings())
def test_weights_are_a_distribution_over_the_valid_heads(case: Case, settings: formula_settings.Settings) -> None:
    """They sum to 1 where a head is valid, are 0 elsewhere, and are never negative."""
    label_BSH = case.labels
    weight_BSH = oracles.head_weights(
        case.value_BS,
        label_BSH,
        case.valid_BS,
        discount_lambda=settings.discount_lambda,
        temperature=settings.temperature,
        document_BS=case.document_BS,
    )
    legal_BSH = label_BSH != -100
    torch.testing.assert_close(weight_BSH.sum(-1), legal_BSH.any(-1).double(), rtol=0, atol=1e-12)
    assert bool((weight_BSH[~legal_BSH] == 0).all()) and bool((weight_BSH >= 0).all())


@given(case=strategies.token_batches(dtypes=st.just(torch.float64)), settings=formula_settings.settings())
def test_oracles_agree_with_the_vectorised_twin(case: Case, settings: formula_settings.Settings) -> None:
    """Two implementations that share nothing say the same of labels, weights, loss, returns and rewards."""
    twin, label_BSH, packing = broken_functions.good_functions(), case.labels, {"document_BS": case.document_BS}
    assert torch.equal(label_BSH, broken_functions.labels(case.token_BS, case.valid_BS, case.horizon, **packing))
    given_values = (case.value_BS, label_BSH, case.valid_BS)
    options = {"discount_lambda": settings.discount_lambda, "temperature": settings.temperature, **packing}
    expected_BSH = oracles.head_weights(*given_values, **options)
    torch.testing.assert_close(twin.weights(*given_values, **options), expected_BSH, rtol=0, atol=1e-6)
    rewards = (case.reward_BS, case.value_BS, case.valid_BS)
    decays = {"gamma": settings.discount_lambda, "gae_lambda": 0.9, **packing}
    expected_BS = oracles.gae_returns(*rewards, **decays)
    torch.testing.assert_close(twin.returns(*rewards, **decays), expected_BS, rtol=0, atol=1e-9)
    for placement in ("terminal", "uniform"):
        expected_BS = oracles.place_rewards(case.reward_B.double(), case.valid_BS, placement, case.document_BS)
        placed_BS = twin.place_rewards(case.reward_B.double(), case.valid_BS, placement, **packing)
        torch.testing.assert_close(placed_BS, expected_BS, rtol=0, atol=1e-12)


@given(case=strategies.token_batches(packed=False), gamma=formula_settings.DISCOUNTS)
def test_returns_with_lambda_one_are_discounted_sums_of_rewards(case: Case, gamma: float) -> None:
    """At lambda = 1 the values cancel: a return is the discounted sum of the real tokens' rewards."""
    return_BS = oracles.gae_returns(case.reward_BS, case.value_BS, case.valid_BS, gamma=gamma, gae_lambda=1.0)
    for row in range(len(return_BS)):
        rewards = case.reward_BS[row][case.valid_BS[row]].tolist()
        sums = [sum(gamma**j * reward for j, reward in enumerate(rewards[i:])) for i in range(len(rewards))]
        assert return_BS[row][case.valid_BS[row]].tolist() == pytest.approx(sums, abs=1e-4)


@given(case=strategies.token_batches(), garbage=strategies.GARBAGE)
def test_oracles_never_read_padding(case: Case, garbage: float) -> None:
    """Whatever stands at padding, nothing changes."""
    other = case.with_padding(garbage)
    options = {"discount_lambda": 0.95, "document_BS": case.document_BS}
    decays = {"gamma": 0.9, "gae_lambda": 0.8, "document_BS": case.document_BS}
    assert torch.equal(
        oracles.deltas(case.value_BS, case.valid_BS, **options),
        oracles.deltas(other.value_BS, case.valid_BS, **options),
    )
    assert torch.equal(
        oracles.gae_returns(case.reward_BS, case.value_BS, case.valid_BS, **decays),
        oracles.gae_returns(other.reward_BS, other.value_BS, case.valid_BS, **decays),
    )


@given(case=strategies.token_batches(dtypes=st.just(torch.float64), packed=False))
def test_a_packed_row_is_its_documents_apart(case: Case) -> None:
    """Two rows packed into one, as two documents, give what they give alone."""
    rows, positions = case.valid_BS.shape
    together = {
        name: tensor.reshape(1, rows * positions)
        for name, tensor in (("value", case.value_BS), ("reward", case.reward_BS), ("valid", case.valid_BS))
    }
    document_BS = torch.arange(rows).repeat_interleave(positions)[None]
    decays = {"gamma": 0.9, "gae_lambda": 0.8}
    alone_BS = oracles.gae_returns(case.reward_BS, case.value_BS, case.valid_BS, **decays)
    packed_BS = oracles.gae_returns(
        together["reward"], together["value"], together["valid"], **decays, document_BS=document_BS
    )
    assert torch.equal(packed_BS.reshape(rows, positions), alone_BS)
