"""What must hold of the trainer's labels for every mask, packing and horizon."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradgate import strategies
from gradgate.checks.cases import Case
from wmtp import make_labels


@given(case=strategies.token_batches())
def test_labels_equal_the_reference(case: Case) -> None:
    """Token t+k+1 where both ends are real tokens of one document, -100 elsewhere; as whole numbers."""
    label_BSH = make_labels(case.token_BS, case.valid_BS, case.horizon, document_BS=case.document_BS)
    assert label_BSH.dtype == torch.long
    assert torch.equal(label_BSH, case.labels)


@given(case=strategies.token_batches(), replacement=st.integers(-100, 10**6))
def test_labels_never_read_padding(case: Case, replacement: int) -> None:
    """Which token ids stand at padding does not matter, pad id or not."""
    other_BS = case.token_BS.masked_fill(~case.valid_BS, replacement)
    options = {"document_BS": case.document_BS}
    assert torch.equal(
        make_labels(other_BS, case.valid_BS, case.horizon, **options),
        make_labels(case.token_BS, case.valid_BS, case.horizon, **options),
    )


@given(case=strategies.token_batches())
def test_labels_do_not_depend_on_what_equals_a_pad_id(case: Case) -> None:
    """A real token with id 0 is predicted like any other: real is what the mask says."""
    zero_BS = torch.zeros_like(case.token_BS)
    label_BSH = make_labels(zero_BS, case.valid_BS, case.horizon, document_BS=case.document_BS)
    assert torch.equal(label_BSH, torch.where(case.labels == -100, -100, 0))


@given(case=strategies.token_batches(), more=st.integers(1, 5))
def test_labels_of_more_heads_begin_with_those_of_fewer(case: Case, more: int) -> None:
    """The horizon adds heads and changes none."""
    wider_BSH = make_labels(case.token_BS, case.valid_BS, case.horizon + more, document_BS=case.document_BS)
    assert torch.equal(wider_BSH[..., : case.horizon], case.labels)


@given(case=strategies.token_batches())
def test_one_document_a_row_is_the_same_as_no_documents(case: Case) -> None:
    """Packing a single document changes nothing, whatever its id."""
    document_BS = torch.arange(len(case.token_BS))[:, None].expand(case.token_BS.shape) - 2
    plain = dataclasses.replace(case, document_BS=None)
    label_BSH = make_labels(case.token_BS, case.valid_BS, case.horizon, document_BS=document_BS)
    assert torch.equal(label_BSH, plain.labels)


@given(case=strategies.token_batches())
def test_labels_leave_their_arguments_alone(case: Case) -> None:
    """Neither tokens nor mask are written."""
    token_BS, valid_BS = case.token_BS.clone(), case.valid_BS.clone()
    make_labels(case.token_BS, case.valid_BS, case.horizon, document_BS=case.document_BS)
    assert torch.equal(case.token_BS, token_BS) and torch.equal(case.valid_BS, valid_BS)


@pytest.mark.parametrize("horizon", [0, -1, True, 1.5, "4", None])
def test_horizon_that_is_no_whole_positive_number_is_refused(horizon: object) -> None:
    """The error names the horizon."""
    with pytest.raises(ValueError, match="horizon"):
        make_labels(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool), horizon)


def test_labels_of_disagreeing_shapes_are_refused() -> None:
    """The error names the argument and both shapes."""
    with pytest.raises(ValueError, match=r"token_BS has shape \[1, 3\], expected .*\[1, 2\]"):
        make_labels(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool), 2)
