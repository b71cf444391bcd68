"""Batches: rows cut and packed, labels and rewards where they belong, every row once an epoch."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures.small_runs import CPU, batch_of, row, small_trainer
from wmtp import gae_returns, head_weights
from wmtp.data.batches import Order, Row, pack_rows, tokenise
from wmtp.data.examples import Example
from wmtp.data.tokenizer import ByteTokenizer
from wmtp.errors import DataError
from wmtp.labels import IGNORE


class NoTokens(ByteTokenizer):
    """Knows neither special tokens nor the letter z."""

    bos_id = eos_id = None

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("z", ""))


def test_rows_have_begin_and_end_around_prompt_and_completion() -> None:
    """The end token stands once, behind the completion; the begin token counts as prompt."""
    rows, cut = tokenise([Example("t", "ab", "c")], ByteTokenizer(), 10)
    assert (rows, cut) == ([Row((257, 97, 98, 99, 258), 3, 0, "t")], 0)


def test_rows_are_cut_at_the_maximum_length() -> None:
    """The cut is counted, and a prompt is never longer than its row."""
    rows, cut = tokenise([Example("t", "abcd", "e"), Example("u", "", "x")], ByteTokenizer(), 3)
    assert ([(len(r.token), r.prompt_length) for r in rows], cut) == ([(3, 3), (3, 1)], 1)


def test_rows_are_refused_when_none_has_two_tokens() -> None:
    """Then there is nothing to predict."""
    with pytest.raises(DataError, match=r"^no row has two tokens"):
        tokenise([Example("t", "", "a")], NoTokens(), 10)


def test_row_is_refused_when_its_tokenizer_gives_nothing() -> None:
    """A row without any token names its task."""
    with pytest.raises(DataError, match=r"^task 'u': the tokenizer gives no token for its text$"):
        tokenise([Example("t", "a", "b"), Example("u", "", "zz")], NoTokens(), 10)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_packing_holds_each_row_once_and_never_too_much(lengths: list[int]) -> None:
    """No row is lost, doubled or cut by packing, and no pack is longer than allowed."""
    rows = [row(length, index) for index, length in enumerate(lengths)]
    packs = pack_rows(rows, 9, packing=True)
    assert sorted(r.index for pack in packs for r in pack) == list(range(len(rows)))
    assert max(sum(len(r.token) for r in pack) for pack in packs) <= 9


def test_packing_takes_the_first_place_that_fits() -> None:
    """5 + 4 fill the first pack, though the 7 came between."""
    packs = pack_rows([row(5, 0), row(7, 1), row(4, 2)], 9, packing=True)
    assert [[r.index for r in pack] for pack in packs] == [[0, 2], [1]]
    assert pack_rows([row(5, 0), row(4, 1)], 9, packing=False) == [(row(5, 0),), (row(4, 1),)]


def test_batch_is_padded_on_the_right_and_counted_on_the_host() -> None:
    """The counts are those of the tensors."""
    batch = batch_of([(row(5, 1),), (row(3, 2),)])
    assert batch.valid_BS.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert batch.token_BS[1, 3:].tolist() == [256, 256]
    assert (batch.plain, batch.document_BS) == (True, None)
    assert batch.tokens == 8
    assert batch.positions == 4 + 2
    assert batch.labels == int((batch.label_BSH != IGNORE).sum()) == (3 + 3 + 2 + 1) + (2 + 1)


def test_prompt_tokens_are_no_labels_when_completions_are_trained_on() -> None:
    """Labels are completion tokens only, values and rewards see the prompt all the same."""
    batch = batch_of([(row(6, 2, prompt=4),)], train_on="completion", placement="uniform")
    token_S = batch.token_BS[0].tolist()
    predicted = [[k for k in range(3) if batch.label_BSH[0, t, k] != IGNORE] for t in range(6)]
    assert predicted == [[], [2], [1, 2], [0, 1], [0], []]
    assert batch.label_BSH[0, 1, 2].item() == token_S[4]
    assert batch.tokens == 6
    assert int((batch.reward_BS != 0).sum()) == 6


def test_batch_has_no_label_when_prompts_fill_every_row() -> None:
    """Rows cut inside their prompt count no position."""
    batch = batch_of([(row(4, 1, prompt=4),)], train_on="completion")
    assert (batch.positions, batch.labels, batch.tokens) == (0, 0, 4)


def test_packed_rows_have_their_own_labels_rewards_returns_and_weights() -> None:
    """A document of a pack is treated as the same row alone."""
    rows = [row(5, 1), row(4, 2), row(6, 4)]
    packed = batch_of([tuple(rows), (row(3, 5),)])
    value_BS = torch.randn(packed.token_BS.shape, generator=torch.Generator().manual_seed(0))
    return_BS = gae_returns(packed.reward_BS, value_BS, packed.valid_BS, document_BS=packed.document_BS)
    weight_BSH = head_weights(value_BS, packed.label_BSH, packed.valid_BS, document_BS=packed.document_BS)
    start = 0
    for one in rows:
        alone, span = batch_of([(one,)]), slice(start, start + len(one.token))
        value = value_BS[:1, span]
        assert torch.equal(packed.label_BSH[:1, span], alone.label_BSH)
        assert torch.equal(packed.reward_BS[:1, span], alone.reward_BS)
        torch.testing.assert_close(return_BS[:1, span], gae_returns(alone.reward_BS, value, alone.valid_BS))
        torch.testing.assert_close(weight_BSH[:1, span], head_weights(value, alone.label_BSH, alone.valid_BS))
        start = span.stop


def test_batch_stays_what_it_is_on_the_cpu() -> None:
    """Moving to where it is copies nothing."""
    batch = batch_of([(row(3),)])
    assert batch.to(CPU) is batch


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 3))
def test_order_visits_each_pack_once_an_epoch(size: int, batch_size: int, seed: int) -> None:
    """In every epoch, and in as many batches as it says."""
    order = Order(size, batch_size, seed)
    batches = [indices for indices, _ in islice(order.from_position(0), 3 * order.batches_per_epoch)]
    for epoch in range(3):
        seen = batches[epoch * order.batches_per_epoch : (epoch + 1) * order.batches_per_epoch]
        assert sorted(index for indices in seen for index in indices) == list(range(size))


def test_order_goes_on_from_any_position() -> None:
    """A position is all there is to remember."""
    order = Order(7, 3, 0)
    steps = list(islice(order.from_position(0), 8))
    assert list(islice(order.from_position(steps[3][1]), 4)) == steps[4:]


def test_order_differs_between_seeds_and_epochs() -> None:
    """Shuffles are drawn anew for each."""
    first, other = Order(50, 50, 0), Order(50, 50, 1)
    assert len({tuple(first.batch(0)), tuple(first.batch(50)), tuple(other.batch(0))}) == 3


def test_heldout_rows_share_no_task_with_training_rows() -> None:
    """The split is by task, also when rows are packed."""
    data = small_trainer("data.packing=true", "data.max_length=130").data
    train = {r.task_id for pack in data.train for r in pack}
    assert train & {r.task_id for r in data.heldout} == set()
    assert any(len(pack) > 1 for pack in data.train)
