"""Neighbours among real tokens: against literal loops, with padding anywhere and documents in any order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wmtp.documents import check_mask, document_number, first_real, next_real, previous_real

CELLS = st.integers(1, 3).flatmap(
    lambda batch: st.integers(1, 7).flatmap(
        lambda length: st.lists(
            st.lists(st.tuples(st.booleans(), st.integers(-2, 2)), min_size=length, max_size=length),
            min_size=batch,
            max_size=batch,
        )
    )
)


def tensors(cells: list[list[tuple[bool, int]]]) -> tuple[Tensor, Tensor]:
    """Mask and documents of a grid."""
    grid = torch.tensor(cells, dtype=torch.long)
    return grid[:, :, 0].bool(), grid[:, :, 1]


def neighbours(valid_BS: Tensor, document_BS: Tensor) -> dict[str, list[list[int]]]:
    """The same three answers by looking at every pair of positions."""
    batch, length = valid_BS.shape
    found: dict[str, list[list[int]]] = {"next": [], "previous": [], "first": []}
    for b in range(batch):
        mates = [
            [s for s in range(length) if valid_BS[b, s] and document_BS[b, s] == document_BS[b, t]]
            for t in range(length)
        ]
        found["next"].append([min((s for s in mates[t] if s > t), default=length) for t in range(length)])
        found["previous"].append([max((s for s in mates[t] if s < t), default=length) for t in range(length)])
        found["first"].append([min(mates[t], default=length) for t in range(length)])
    return found


@given(CELLS)
def test_neighbours_agree_with_a_literal_search(cells: list[list[tuple[bool, int]]]) -> None:
    """Next, previous and first real token of the document, gaps bridged, wherever the document's parts lie."""
    valid_BS, document_BS = tensors(cells)
    found = {
        "next": next_real(valid_BS, document_BS).tolist(),
        "previous": previous_real(valid_BS, document_BS).tolist(),
        "first": first_real(valid_BS, document_BS).tolist(),
    }
    assert found == neighbours(valid_BS, document_BS)


@given(CELLS)
def test_neighbours_take_a_row_for_a_document_when_nothing_is_packed(cells: list[list[tuple[bool, int]]]) -> None:
    """Without documents the answers are those of one document a row."""
    valid_BS, _ = tensors(cells)
    one_BS = torch.zeros_like(valid_BS, dtype=torch.long)
    for function in (next_real, previous_real, first_real):
        assert function(valid_BS).tolist() == function(valid_BS, one_BS).tolist()


@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (2, 1)])
def test_neighbours_of_nothing_are_nothing(shape: tuple[int, int]) -> None:
    """No positions, no rows, a single token: answers of the same shape, with nothing before or after."""
    valid_BS, document_BS = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.long)
    for documents in (None, document_BS):
        found = (next_real(valid_BS, documents), previous_real(valid_BS, documents))
        assert [x.tolist() for x in found] == [torch.full(shape, shape[1]).tolist()] * 2


def test_document_numbers_follow_the_order_of_ids() -> None:
    """Any ids become 0, 1, … in each row."""
    assert document_number(torch.tensor([[7, 7, -1, 9], [3, 3, 3, 3]])).tolist() == [[1, 1, 0, 2], [0, 0, 0, 0]]


def test_mask_becomes_boolean() -> None:
    """Whatever is not 0 is a real token."""
    assert check_mask(torch.tensor([[0, 1, 2]]), None).tolist() == [[False, True, True]]


def test_mask_is_refused_when_documents_have_another_shape() -> None:
    """The message names the argument at fault."""
    with pytest.raises(ValueError, match=r"^document_BS has shape"):
        check_mask(torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^valid_BS has shape"):
        check_mask(torch.ones(3, dtype=torch.bool), None)
