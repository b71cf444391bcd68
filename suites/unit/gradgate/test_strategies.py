"""Drawn batches: what they cover, how small they get, and that what is printed of them builds them again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradgate import strategies
from gradgate.checks.batches import first_difference, leaves
from gradgate.checks.cases import Case
from gradgate.pasteable import expression, pasteable, size
from gradgate.subjects.drawn import smallest_failing

FEW = settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
ANY = strategies.token_batches(dtypes=strategies.DTYPES, layout=strategies.layouts())
NAN, INF = math.nan, math.inf


@dataclass(frozen=True)
class Record:
    value_BS: Tensor
    rows: tuple[Any, ...]


class Named(NamedTuple):
    token_BS: Tensor | None
    name: str


def pasted(batch: Any) -> Any:
    """What the printed program leaves."""
    namespace: dict[str, Any] = {}
    exec(pasteable(batch), namespace)  # noqa: S102 - what the tests are about
    return namespace["batch"]


def layout_of(batch: Any) -> list[tuple[Any, ...]]:
    """Dtype, shape, stride and gradient of every tensor."""
    tensors = [leaf for _, leaf in leaves(batch) if isinstance(leaf, Tensor)]
    return [(leaf.dtype, leaf.shape, leaf.stride(), leaf.requires_grad) for leaf in tensors]


def same(one: Any, other: Any) -> bool:
    """Bit for bit, in all that a tensor is."""
    return first_difference(one, other) is None and layout_of(one) == layout_of(other)


@cache
def first_drawn(count: int) -> list[Case]:
    """The first batches of the source."""
    return list(islice(strategies.sampled(strategies.token_batches()), count))


def smallest(condition: Callable[[Case], bool], **options: Any) -> Case:
    """The smallest batch for which a condition holds."""
    return find(strategies.token_batches(**options), condition, settings=settings(FEW, max_examples=500, database=None))


@FEW
@given(case=ANY)
def test_drawn_batch_can_be_pasted(case: Case) -> None:
    """Its repr, evaluated, is the batch: dtypes, strides, NaN and infinities included."""
    names = {"torch": torch, "Case": Case, "nan": NAN, "inf": INF}
    assert same(eval(repr(case), names), case)  # noqa: S307 - what the test is about


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": torch.arange(6).reshape(2, 3), "labels": torch.tensor([[-100, 2]])},
        [torch.randn(2, 3).t(), (torch.randn(3)[None].expand(2, 3), None, "text", 1.5, NAN)],
        (torch.randn(4, 6)[1:, ::2], torch.tensor([NAN, INF, -INF, -0.0, 1e-45])),
        (torch.randn(4).to(torch.bfloat16),),
        Record(torch.randn(2, 2, dtype=torch.float64, requires_grad=True), (Named(torch.tensor([[1]]), "a"), ())),
        Named(torch.zeros(0, 3), "nothing"),
        torch.zeros(3, 0).t(),
        torch.tensor(7, dtype=torch.int16),
        torch.tensor([[True, False]]),
        torch.randn(1, 3).t().t()[:, :1].expand(1, 2),
    ],
)
def test_pasted_batch_is_the_batch(batch: Any) -> None:
    """Mappings, lists, tuples, records; views, expanded, transposed, empty and 0-dimensional tensors; every dtype."""
    assert same(pasted(batch), batch)
    assert type(pasted(batch)) is type(batch)


def test_pasteable_names_where_records_come_from() -> None:
    """The program imports the classes that it builds, each once."""
    text = pasteable([Named(torch.tensor([1]), "a"), Named(None, "b")], "two")
    assert text.splitlines() == [
        "from math import inf, nan",
        "",
        "import torch",
        f"from {__name__} import Named",
        "",
        "two = [Named(token_BS=torch.tensor([1], dtype=torch.int64), name='a'), Named(token_BS=None, name='b')]",
    ]


def test_size_counts_the_numbers_of_all_tensors() -> None:
    """However deep they lie."""
    assert size({"a": [torch.ones(2, 3)], "b": Record(torch.ones(4), (torch.ones(1), 5))}) == 11


def test_expression_of_a_tensor_on_a_graph_is_a_leaf() -> None:
    """Numbers travel, graphs do not."""
    tensor = 2 * torch.ones(1, requires_grad=True)
    assert expression(tensor) == "torch.tensor([2.0], dtype=torch.float32).requires_grad_()"


@pytest.mark.parametrize(
    "condition",
    [
        lambda case: not case.valid_BS.any(),
        lambda case: bool(case.valid_BS.all()),
        lambda case: bool((case.valid_BS.sum(1) == 1).all()) and len(case.valid_BS) > 1,
        lambda case: bool((~case.valid_BS[:, 0] & case.valid_BS[:, -1]).any()),
        lambda case: bool((case.valid_BS[:, :-2] & ~case.valid_BS[:, 1:-1] & case.valid_BS[:, 2:]).any()),
        lambda case: case.horizon > case.valid_BS.shape[1],
        lambda case: case.document_BS is not None and len(case.document_BS.unique()) > 2,
        lambda case: bool(case.value_BS.isnan().any()),
        lambda case: case.value_BS.dtype == torch.float64,
    ],
)
def test_token_batches_reach(condition: Callable[[Case], bool]) -> None:
    """All padding, none, single tokens, padding on the left, gaps, long horizons, packing, garbage, dtypes."""
    assert any(condition(case) for case in first_drawn(200))


def test_token_batches_shrink_to_one_row_and_few_positions() -> None:
    """The smallest batch with a gap has one row of three positions, and zeros for numbers."""
    case = smallest(lambda case: bool((case.valid_BS[:, :-2] & ~case.valid_BS[:, 1:-1] & case.valid_BS[:, 2:]).any()))
    assert case.valid_BS.tolist() == [[True, False, True]]
    assert (case.token_BS.tolist(), case.value_BS.tolist(), case.horizon) == ([[0, 1, 2]], [[0.0, 0.0, 0.0]], 1)
    assert case.document_BS is None


def test_numbers_shrink_one_by_one() -> None:
    """The smallest value that is below -1 is the nearest, and its neighbours are 0."""
    found = find(
        strategies.numbers((4,)), lambda held_N: bool((held_N < -1).any()), settings=settings(FEW, max_examples=500)
    )
    assert sorted(found.tolist()) == [-1 - strategies.STEP, 0.0, 0.0, 0.0]


@FEW
@given(valid_BS=strategies.padded(side="left", shortest=2, longest=5, rows=3))
def test_padded_rows_have_padding_on_one_side(valid_BS: Tensor) -> None:
    """No gap, at least the shortest length, and no column without a real token."""
    assert bool((valid_BS.long().diff(dim=1) >= 0).all())
    assert bool((valid_BS.sum(1) >= 2).all()) and bool(valid_BS.any(0).all())


@FEW
@given(case=strategies.token_batches(vocabulary=5, valid=strategies.padded(), packed=True), data=st.data())
def test_drawn_tokens_and_documents_fit_the_mask(case: Case, data: st.DataObject) -> None:
    """Ids below the vocabulary; documents that stay together have their real tokens in one piece each."""
    assert bool((case.token_BS >= 0).all()) and bool((case.token_BS < 5).all())
    together_BS = data.draw(strategies.documents(case.valid_BS))
    for document_S, valid_S in zip(together_BS, case.valid_BS, strict=True):
        kept_S = document_S[valid_S]
        assert int((kept_S.diff() != 0).sum()) + 1 == len(kept_S.unique())


@FEW
@given(case=strategies.token_batches(scales=strategies.EXTREMES, dtypes=st.just(torch.float16)))
def test_extreme_values_are_finite_in_half_precision(case: Case) -> None:
    """Nothing at a real token overflows before the trainer has it."""
    assert bool(case.value_BS[case.valid_BS].isfinite().all())


def test_layouts_are_not_all_contiguous() -> None:
    """One of them is, two are not, and the numbers are the same."""
    drawn = [find(strategies.layouts(), lambda layout, index=index: layout.__name__ == index) for index in NAMES]
    tensor = torch.arange(6).reshape(2, 3)
    assert [layout(tensor).is_contiguous() for layout in drawn] == [True, False, False]
    assert all(torch.equal(layout(tensor), tensor) for layout in drawn)


NAMES = ("_contiguous", "every_second", "_transposed")


def test_torch_is_seeded_for_every_example_and_put_back() -> None:
    """What a test draws from torch is the same in each example, and the process's own numbers go on."""
    seen: set[float] = set()

    @settings(FEW, max_examples=5)
    @given(st.integers())
    def draws(_: int) -> None:
        seen.add(float(torch.rand(())))

    torch.manual_seed(3)
    draws()
    after = torch.rand(())
    torch.manual_seed(3)
    assert len(seen) == 1
    assert torch.equal(after, torch.rand(()))


def test_failing_batch_is_printed_to_be_pasted() -> None:
    """Hypothesis's own report has every tensor with its numbers, dtype and strides."""

    @settings(FEW, database=None, print_blob=False, phases=[Phase.generate])
    @given(case=strategies.token_batches(valid=st.just(torch.ones(1, 2, dtype=torch.bool))))
    def fails(case: Case) -> None:
        raise ValueError("whatever it is given")

    with pytest.raises(ValueError, match="whatever") as caught:
        fails()
    assert "token_BS=torch.tensor([[0, 1]], dtype=torch.int64)" in "".join(caught.value.__notes__)


def test_sampled_batches_are_the_same_each_time_and_have_no_end() -> None:
    """In one order, beyond the examples of one seed."""
    again = list(islice(strategies.sampled(strategies.token_batches()), 120))
    assert len(again) == 120
    assert all(same(*pair) for pair in zip(again, first_drawn(200), strict=False))


def judge(case: Case) -> str | None:
    return "two rows" if len(case.valid_BS) > 1 and bool((case.value_BS.abs() > 1).any()) else None


def test_smallest_failing_batch_is_found_made_small_and_reproduced() -> None:
    """Two rows of one position; the same for the same seed."""
    drawn = strategies.token_batches(garbage=st.just(0.0))
    (found, tried), (again, _) = (smallest_failing(drawn, judge, number=1, examples=50, most=300) for _ in range(2))
    assert found is not None and again is not None
    assert (found.batch.valid_BS.shape, found.fault) == ((2, 1), "two rows")
    assert same(found.batch, again.batch)
    assert found.tried <= tried <= 300


def test_search_for_the_smallest_ends_where_it_must() -> None:
    """With the smallest that it has by then."""
    found, tried = smallest_failing(strategies.token_batches(), judge, number=1, examples=50, most=20)
    assert tried == 20
    assert found is not None and judge(found.batch) == "two rows"


def test_no_batch_fails_where_nothing_is_wrong() -> None:
    """All examples are judged, and there is none to show."""
    assert smallest_failing(strategies.token_batches(), lambda _: None, number=0, examples=30, most=99) == (None, 30)
