"""The operation that gives a row other numbers in other company."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from gradgate.checks.company_lines import Company, line_of_company

SOURCE = Path(__file__).parent
Scores = Callable[[Tensor, Tensor], Tensor]


def right(value_BS: Tensor, valid_BS: Tensor) -> Tensor:
    summed_B = (value_BS * valid_BS).sum(1)
    return summed_B / valid_BS.sum(1)


def by_length(value_BS: Tensor, valid_BS: Tensor) -> Tensor:
    summed_B = (value_BS * valid_BS).sum(1)
    return summed_B / valid_BS.shape[1]


def centred(value_BS: Tensor, valid_BS: Tensor) -> Tensor:
    score_B = right(value_BS, valid_BS)
    mean = score_B.mean()
    return score_B - mean


def with_padding(value_BS: Tensor, valid_BS: Tensor) -> Tensor:
    shifted_BS = value_BS + 1.0
    return shifted_BS.sum(1) / valid_BS.sum(1)


def line(scores: Scores, rows: list[int], more: int) -> str:
    valid_BS = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    value_BS = torch.arange(9.0, dtype=torch.float64).reshape(3, 3) * valid_BS
    other_BS, others_BS = pad(value_BS[rows], (0, more)), pad(valid_BS[rows], (0, more))
    plain_B = scores(value_BS, valid_BS)

    def asked(value_BS: Tensor, valid_BS: Tensor, mode: AbstractContextManager[Any]) -> Tensor:
        with mode:
            return scores(value_BS, valid_BS)

    company = Company(
        partial(asked, value_BS, valid_BS), partial(asked, other_BS, others_BS), rows, valid_BS, others_BS
    )
    found = line_of_company(SOURCE, company, lambda score_B: torch.allclose(score_B, plain_B[rows]))
    return "" if found is None else found.source


@pytest.mark.parametrize(
    ("scores", "rows", "more", "source"),
    [
        (by_length, [0, 1, 2], 2, "return summed_B / valid_BS.shape[1]"),
        (centred, [2], 0, "mean = score_B.mean()"),
        (with_padding, [0, 1, 2], 2, ""),
        (right, [0, 1, 2], 2, ""),
    ],
)
def test_first_operation_that_repairs_is_named(scores: Scores, rows: list[int], more: int, source: str) -> None:
    """By the padded length, by the mean of a batch; none where a sum takes what another line left in the padding."""
    assert line(scores, rows, more) == source
