"""TokenRows: rows, padding and cropping of mappings, dataclasses and named tuples alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from gradgate.core.errors import SubjectError
from gradgate.subjects.rows import TokenRows


@dataclass
class Columns:
    ids: Tensor
    real: Tensor
    segments: Tensor
    labels: Tensor
    rows: list[str]


class Named(NamedTuple):
    ids: Tensor
    real: Tensor
    segments: Tensor
    labels: Tensor
    rows: list[str]


def mapping(*columns: Any) -> dict[str, Any]:
    return dict(zip(("ids", "real", "segments", "labels", "rows"), columns, strict=True))


class Run(TokenRows):
    ids_from, mask_from, documents_from = "ids", "real", "segments"
    padding: ClassVar[Mapping[str, float]] = {"ids": 9, "real": 0, "segments": 0, "labels": -100}


def batch(kind: Callable[..., Any]) -> Any:
    token_BS = torch.arange(6).view(2, 3)
    real_BS = torch.tensor([[1, 1, 1], [1, 1, 0]])
    label_BSH = torch.stack([token_BS.roll(-1, 1), token_BS.roll(-2, 1)], 2)
    return kind(token_BS, real_BS, real_BS.clone(), label_BSH, ["first", "second"])


def columns(held: Any) -> dict[str, Any]:
    return held if isinstance(held, dict) else held._asdict() if isinstance(held, Named) else vars(held)


@pytest.mark.parametrize("kind", [mapping, Columns, Named])
def test_rows_and_positions_of_every_kind_of_batch(kind: Callable[..., Any]) -> None:
    """What comes back is a batch of the same kind; the one that was given stays as it is."""
    run, given = Run(), batch(kind)
    tokens = run.tokens(given)
    rows, wide, narrow = run.select_rows(given, [1, 1]), run.pad(given, 2), run.crop(given, 2)

    assert (tokens.valid_BS.dtype, tokens.document_BS is columns(given)["segments"]) == (torch.bool, True)
    assert type(rows) is type(wide) is type(narrow) is type(given)
    assert (columns(rows)["rows"], columns(rows)["ids"].tolist()) == (["second", "second"], [[3, 4, 5], [3, 4, 5]])
    assert columns(wide)["ids"].tolist() == [[0, 1, 2, 9, 9], [3, 4, 5, 9, 9]]
    assert columns(wide)["labels"][0, 3:].tolist() == [[-100, -100], [-100, -100]]
    assert columns(narrow)["labels"][0].tolist() == [[1, -100], [-100, -100]]
    assert columns(wide)["rows"] == columns(narrow)["rows"] == columns(given)["rows"] == ["first", "second"]
    assert torch.equal(columns(given)["ids"], torch.arange(6).view(2, 3))


@pytest.mark.parametrize(
    ("mask", "ids"),
    [
        ([[1, 1, 1], [0, 1, 1]], [[9, 9, 0, 1, 2], [9, 9, 3, 4, 5]]),
        ([[1, 1, 0], [0, 1, 1]], [[0, 1, 2, 9, 9], [3, 4, 5, 9, 9]]),
        ([[1, 1, 1], [1, 1, 1]], [[0, 1, 2, 9, 9], [3, 4, 5, 9, 9]]),
    ],
)
def test_padding_goes_where_the_batch_has_its_own(mask: list[list[int]], ids: list[list[int]]) -> None:
    """On the left where rows begin with padding and none ends with it, else on the right."""
    wide = Run().pad({"ids": torch.arange(6).view(2, 3), "real": torch.tensor(mask)}, 2)
    assert wide["ids"].tolist() == ids


def test_a_batch_without_columns_is_refused() -> None:
    """With its type, and what is taken."""
    with pytest.raises(SubjectError, match="a batch is a Tensor, expected a mapping, dataclass or named tuple"):
        Run().tokens(torch.ones(2))


@pytest.mark.parametrize("way", ["pad", "crop"])
def test_a_column_as_wide_as_the_tokens_is_named_with_its_value_at_padding(way: str) -> None:
    """Or with None: what it would have there nobody knows, and what is left as it is breaks the step later."""

    class Loose(Run):
        padding: ClassVar[Mapping[str, float | None]] = {"ids": 9, "real": 0, "segments": 0}

    class Named(Run):
        padding: ClassVar[Mapping[str, float | None]] = {"ids": 9, "real": 0, "segments": 0, "labels": None}

    told = r"Loose.padding: no 'labels', which has an entry for each of `ids`: give its value at padding, or None"
    with pytest.raises(SubjectError, match=told):
        getattr(Loose(), way)(batch(mapping), 2)
    changed = getattr(Named(), way)(batch(mapping), 2)
    assert (changed["ids"].shape[1], changed["labels"].shape[1]) == ({"pad": 5, "crop": 2}[way], 3)


def test_micro_batches_are_read_as_one_batch() -> None:
    """The narrower ones are padded; each is padded and cropped on its own, and picked rows are one batch."""
    run, wide = Run(), batch(mapping)
    narrow = run.crop(wide, 2)
    tokens, picked = run.tokens((wide, narrow)), run.select_rows((wide, narrow), [0, 3])

    assert tokens.token_BS.tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 9], [3, 4, 9]]
    assert tokens.valid_BS.tolist() == [[True] * 3, [True, True, False], [True, True, False], [True, True, False]]
    assert (picked["ids"].tolist(), picked["rows"]) == ([[0, 1, 2], [3, 4, 9]], ["first", "second"])
    assert [part["ids"].shape[1] for part in run.pad((wide, narrow), 2)] == [5, 4]
    assert [part["ids"].shape[1] for part in run.crop((wide, narrow), 1)] == [1, 1]


def test_tokens_of_the_data_are_another_column_where_the_ids_are_corrupted() -> None:
    """What is predicted, and found again in the data; without one the ids are."""

    class Corrupted(Run):
        clean_from = "clean"

    given = batch(mapping) | {"clean": torch.full((2, 3), 7)}
    assert Corrupted().tokens(given).data.tolist() == [[7] * 3] * 2
    assert torch.equal(Run().tokens(given).data, given["ids"])
