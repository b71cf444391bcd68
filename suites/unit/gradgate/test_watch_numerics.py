"""Where a number that is not finite was born, and where a slope is infinite: decided from one result at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gradgate.watch.numerics import SMALL, Birth, Numerics, infinite_slope, is_finite
from gradgate.watch.ops import Facts, facts_of
from gradgate.watch.slopes import Slopes

NAN, INF = float("nan"), float("inf")
HERE: Any = ("code", 7)  # a line; nothing here looks into it
MAKER: Any = ("code", 3)


def op(name: str, overload: str = "default") -> Facts:
    """The facts of an aten operation."""
    return facts_of(getattr(getattr(torch.ops.aten, name), overload))


EXP, ADD, MUL, DIV = op("exp"), op("add", "Tensor"), op("mul", "Tensor"), op("div", "Tensor")
CLONE, FILL, VIEW, SQRT, RELU = op("clone"), op("masked_fill", "Scalar"), op("view"), op("sqrt"), op("relu")


def look(numerics: Numerics, facts: Facts, args: list[Any], out: Any) -> Birth | None:
    """Show a result to the watcher; the birth behind it."""
    numerics.look(facts, args, out, HERE, lambda given, place: MAKER if given is args and place == HERE else None)
    return numerics.of(out) if isinstance(out, Tensor) else None


def test_numerics_reads_the_results_that_can_tell_something():
    """Small ones, those of operations that make such numbers, and those with an infinite slope somewhere."""
    numerics = Numerics()
    small, large = torch.ones(SMALL), torch.ones(SMALL + 1)
    assert numerics.wants(ADD, small)
    assert not numerics.wants(ADD, large)
    assert numerics.wants(EXP, large)
    assert numerics.wants(op("norm", "Scalar"), large)


def test_numerics_leaves_views_integers_and_what_is_no_tensor():
    """A view's numbers were read before; of several results one may be worth it."""
    numerics = Numerics()
    assert not numerics.wants(VIEW, torch.ones(2))
    assert not numerics.wants(EXP, torch.ones(2, dtype=torch.int64))
    assert not numerics.wants(EXP, None)
    assert numerics.wants(op("topk"), (torch.ones(2),))
    assert numerics.wants(op("topk"), [torch.ones(2)])
    assert not numerics.wants(op("split", "Tensor"), [torch.ones(2)])


def test_numerics_follows_moved_numbers_only_once_one_is_not_finite():
    """A copy of finite numbers is finite."""
    numerics = Numerics()
    assert not numerics.wants(CLONE, torch.ones(2))
    look(numerics, EXP, [torch.tensor([100.0])], torch.tensor([INF]))
    assert numerics.wants(CLONE, torch.ones(2))
    assert not numerics.wants(CLONE, torch.ones(SMALL + 1))


@pytest.mark.parametrize(
    ("facts", "args", "out", "what"),
    [
        (EXP, [torch.tensor([100.0])], torch.tensor([INF]), "overflow"),
        (DIV, [torch.tensor([1.0]), torch.tensor([0.0])], torch.tensor([INF]), "pole"),
        (DIV, [torch.tensor([0.0]), torch.tensor([0.0])], torch.tensor([INF, NAN]), "nan"),
        (FILL, [torch.tensor([0.0]), torch.tensor([True]), -INF], torch.tensor([-INF]), "fill"),
        (FILL, [torch.tensor([0.0]), torch.tensor([True]), INF], torch.tensor([INF]), "fill"),
        (FILL, [torch.tensor([0.0]), torch.tensor([True]), -1e9], torch.tensor([-INF]), "overflow"),
        (MUL, [torch.tensor([1.0]), INF], torch.tensor([INF]), "overflow"),
        (EXP, [torch.tensor([NAN])], torch.tensor([NAN]), "given"),
        (EXP, [torch.tensor([INF])], torch.tensor([INF]), "given"),
        (MUL, [torch.tensor([INF]), torch.tensor([0.0])], torch.tensor([NAN]), "nan"),
        (ADD, [torch.tensor([NAN]), torch.tensor([0.0])], torch.tensor([INF]), "given"),
    ],
)
def test_numerics_says_how_the_number_came_about(facts: Facts, args: list[Any], out: Tensor, what: str):
    """A pole, an overflow, a constant, 0/0, or data; NaN of a result is inherited from NaN alone, Inf from either."""
    birth = look(Numerics(), facts, args, out)
    assert birth is not None
    assert (birth.what, birth.place, birth.op, birth.dtype) == (what, HERE, facts.name, torch.float32)


def test_birth_carries_operands_and_ranges():
    """The line that made the operand, and the smallest and largest number of the first two that have any."""
    first, empty, second, third = torch.tensor([-1.23456, 2.0]), torch.ones(0), torch.tensor([0.0]), torch.ones(1)
    birth = look(Numerics(), DIV, [first, second, third], torch.tensor([INF, 1.0]))
    assert birth is not None
    assert (birth.operands, birth.ranges, birth.cause) == (MAKER, "[-1.235, 2] and [0, 0]", None)
    birth = look(Numerics(), DIV, [empty, second], torch.tensor([INF]))
    assert birth is not None
    assert birth.ranges == "[0, 0]"


def test_birth_given_with_the_data_has_no_operands():
    """Nobody knows where it was made."""
    birth = look(Numerics(), EXP, [torch.tensor([NAN])], torch.tensor([NAN], dtype=torch.float64))
    assert birth is not None
    assert (birth.operands, birth.ranges, birth.cause, birth.dtype) == (None, "", None, torch.float64)


def test_birth_leaves_out_integers_and_the_result_itself():
    """Of `x.exp_()` only what went in counts; an index has no range worth telling."""
    out = torch.tensor([INF])
    birth = look(Numerics(), EXP, [torch.tensor([3]), out, torch.tensor([100.0])], out)
    assert birth is not None
    assert (birth.what, birth.ranges) == ("overflow", "[100, 100]")


def test_birth_is_inherited_by_what_the_number_goes_through():
    """One birth, followed by the memory of results; NaN made of an Inf is born anew with that Inf as its cause."""
    numerics = Numerics()
    infinite, later, nan = torch.tensor([INF]), torch.tensor([INF, 0.0]), torch.tensor([NAN])
    birth = look(numerics, EXP, [torch.tensor([100.0])], infinite)
    assert look(numerics, ADD, [torch.zeros(1), infinite], later) is birth
    assert numerics.of(later.view(2, 1)) is birth
    made = look(numerics, MUL, [torch.zeros(1), later], nan)
    assert made is not None
    assert birth is not None
    assert (made.what, made.cause, made.overflowed, birth.overflowed) == ("nan", birth, True, True)
    assert look(numerics, ADD, [nan, torch.zeros(1)], torch.tensor([NAN])) is made
    assert numerics.of(torch.ones(1)) is None


def test_birth_of_an_infinity_has_no_cause():
    """Only a NaN comes of another infinity."""
    numerics = Numerics()
    nan, out = torch.tensor([NAN]), torch.tensor([INF])
    birth = look(numerics, DIV, [torch.zeros(1), torch.zeros(1)], nan)
    assert look(numerics, ADD, [nan], out) is birth
    assert birth is not None
    assert (birth.cause, birth.overflowed) == (None, False)


def test_first_birth_is_kept_until_a_nan_comes():
    """An infinity may do no harm, a NaN does; a constant of the program's own is no fault; a second NaN tells less."""
    numerics = Numerics()
    look(numerics, FILL, [torch.zeros(1), torch.ones(1) > 0, -INF], torch.tensor([-INF]))
    assert numerics.first is None
    pole = look(numerics, DIV, [torch.ones(1), torch.zeros(1)], torch.tensor([INF]))
    assert numerics.first is pole
    kept = [torch.tensor([INF]), torch.tensor([NAN]), torch.tensor([NAN])]
    look(numerics, EXP, [torch.tensor([100.0])], kept[0])
    assert numerics.first is pole
    nan = look(numerics, DIV, [torch.zeros(1), torch.zeros(1)], kept[1])
    assert numerics.first is nan
    look(numerics, DIV, [torch.zeros(1), torch.zeros(1)], kept[2])
    assert numerics.first is nan


@pytest.mark.parametrize(
    ("facts", "args", "out"),
    [
        (EXP, [torch.tensor([1.0])], torch.tensor([2.0])),
        (EXP, [torch.tensor([1.0])], torch.ones(0)),
        (EXP, [torch.tensor([1.0])], torch.tensor([3])),
        (RELU, [torch.tensor([1.0])], torch.full((SMALL + 1,), INF)),
        (EXP, [torch.tensor([1.0])], None),
    ],
    ids=["finite", "empty", "integer", "large", "nothing"],
)
def test_numerics_notes_nothing_where_there_is_nothing(facts: Facts, args: list[Any], out: Any):
    """Finite, empty, integer; a large result only of operations that make such numbers."""
    numerics = Numerics()
    look(numerics, facts, args, out)
    assert (numerics.first, numerics.danger) == (None, False)


@pytest.mark.parametrize(
    ("facts", "size"), [(RELU, SMALL), (EXP, SMALL + 1), (op("cdist"), SMALL + 1)], ids=["small", "maker", "slope"]
)
def test_numerics_reads_large_results_of_makers(facts: Facts, size: int):
    """And small ones of all."""
    numerics = Numerics()
    look(numerics, facts, [torch.ones(1)], torch.full((size,), INF))
    assert numerics.first is not None


def test_numerics_reads_the_first_of_several_results():
    """`topk` and the like."""
    numerics = Numerics()
    out = (torch.tensor([NAN]), torch.tensor([0]))
    look(numerics, op("topk"), [torch.tensor([1.0])], out)
    assert numerics.of(out[0]) is numerics.first is not None
    numerics = Numerics()
    look(numerics, op("topk"), [torch.tensor([1.0])], ())
    assert numerics.first is None


@pytest.mark.parametrize(
    ("facts", "out", "danger"),
    [
        (SQRT, torch.tensor([0.0, 1.0]), True),
        (SQRT, torch.tensor([0.5, 1.0]), False),
        (op("_linalg_svd"), torch.tensor([1.0]), True),
        (op("_linalg_svd"), torch.ones(0), False),
        (op("acos"), torch.tensor([3.1]), True),
        (op("pow", "Tensor_Scalar"), torch.tensor([0]), False),
        (EXP, torch.tensor([0.0]), False),
    ],
)
def test_danger_is_where_a_slope_is_infinite(facts: Facts, out: Tensor, danger: bool):
    """A square root of zero; any decomposition, whose derivative divides by differences of values."""
    numerics = Numerics()
    look(numerics, facts, [torch.tensor([-1.0 if facts.name == "acos" else 0.0]), 0.5], out)
    assert numerics.danger is danger


@pytest.mark.parametrize(
    ("facts", "source", "out", "danger"),
    [
        (FILL, None, -INF, False),
        (ADD, "fill", -INF, False),
        (CLONE, "fill", -INF, False),
        (RELU, "fill", INF, True),
        (RELU, "overflow", INF, True),
        (CLONE, "overflow", INF, True),
        (ADD, "overflow", INF, False),
        (EXP, None, INF, True),
        (ADD, "fill", NAN, True),
        (ADD, "nan", NAN, True),
    ],
)
def test_danger_is_not_an_infinite_mask_on_its_way(facts: Facts, source: str | None, out: float, danger: bool):
    """Added and selected it does no harm before a softmax; anything else that is not finite may."""
    numerics = Numerics()
    args: list[Any] = [torch.zeros(1), torch.ones(1) > 0, -INF]
    if source:
        args = [torch.tensor([NAN if source == "nan" else INF])]
        look(numerics, FILL if source == "fill" else EXP, [torch.zeros(1), -INF], args[0])
        numerics.danger = False
    look(numerics, facts, args, torch.tensor([out]))
    assert numerics.danger is danger


def test_numerics_forgets_with_the_graph():
    """What is dead is dropped, what lives is still known; an alarm that nobody looked into keeps the danger."""
    numerics = Numerics()
    alive, dead = torch.tensor([NAN]), torch.tensor([NAN])
    birth = look(numerics, DIV, [torch.zeros(1), torch.zeros(1)], alive)
    look(numerics, DIV, [torch.zeros(1), torch.zeros(1)], dead)
    del dead
    assert numerics.danger
    numerics.forget()
    assert (numerics.first, numerics.danger, numerics.of(alive), len(numerics._births)) == (None, False, birth, 1)
    numerics.alarmed = True
    numerics.forget()
    assert numerics.danger


@pytest.mark.parametrize(
    ("tensor", "finite"),
    [
        (torch.tensor(1.0), True),
        (torch.tensor(INF), False),
        (torch.tensor([1.0, NAN]), False),
        (torch.tensor([INF, -INF]), False),
        (torch.tensor([3e38, 3e38]), True),
        (torch.ones(0), True),
        (torch.ones(2, requires_grad=True), True),
        (torch.ones(2).to_sparse(), True),
        (torch.tensor([1.0, NAN]).to_sparse(), False),
        (torch.zeros(2).to_sparse(), True),
        (torch.tensor([1, 2]), True),
    ],
    ids=[
        "scalar",
        "infinite scalar",
        "nan",
        "both",
        "sum overflows",
        "empty",
        "parameter",
        "sparse",
        "sparse nan",
        "sparse zero",
        "integer",
    ],
)
def test_is_finite_is_about_every_element(tensor: Tensor, finite: bool):
    """A sum that overflows is no number that is not finite."""
    assert is_finite(tensor) is finite


class Wrapper(Tensor):
    """A subclass whose numbers are elsewhere."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("somebody's code ran")


def test_is_finite_asks_no_code_of_others():
    """Numbers that this process does not hold are not looked at."""
    wrapper = torch.Tensor._make_wrapper_subclass(Wrapper, (2,))  # type: ignore[attr-defined]
    assert is_finite(wrapper)


@pytest.mark.parametrize(
    ("name", "args", "out", "infinite"),
    [
        ("sqrt", [torch.tensor([4.0])], [2.0], False),
        ("sqrt", [torch.tensor([4.0, 0.0])], [2.0, 0.0], True),
        ("acos", [torch.tensor([0.5, -1.0])], [1.0], True),
        ("asin", [torch.tensor([1.0])], [1.5], True),
        ("asin", [torch.tensor([0.0])], [0.0], False),
        ("pow", [torch.tensor([0.0]), 0.5], [0.0], True),
        ("pow", [torch.tensor([0.0]), 1], [0.0], False),
        ("pow", [torch.tensor([0.0]), 1.5], [0.0], False),
        ("pow", [torch.tensor([1.0]), 0.5], [1.0], False),
        ("pow", [torch.tensor([0.0]), torch.tensor([2.0])], [0.0], True),
        ("pow", [torch.tensor([0.0])], [0.0], False),
        ("pow", [2.0, torch.tensor([3.0])], [8.0], False),
        ("pow", [2.0, torch.tensor([3.0])], [0.0], True),
        ("xlogy", [torch.tensor([1.0]), torch.tensor([0.0])], [-INF], True),
        ("xlogy", [torch.tensor([0.0]), torch.tensor([1.0])], [0.0], False),
        ("xlogy", [torch.tensor([0.0]), 0.0], [0.0], False),
        ("special_entr", [torch.tensor([0.0])], [0.0], True),
        ("special_entr", [torch.tensor([1.0])], [0.0], False),
        ("norm", [], [0.0], True),
        ("norm", [], [1.0], False),
    ],
)
def test_infinite_slope_is_at_the_edge_of_a_domain(name: str, args: list[Any], out: list[float], infinite: bool):
    """acos and asin at one, a power below one at zero, x log y at y = 0, roots and norms where they are zero."""
    assert infinite_slope(name, args, torch.tensor(out)) is infinite


def slopes(result: Tensor) -> Slopes:
    """Run a backward under a watch of its nodes."""
    looking = Slopes([result, torch.ones(1), None])
    result.backward()
    looking.remove()
    return looking


def test_slope_is_named_by_the_first_node_that_loses_finiteness():
    """Later nodes got what was sick already; the operand is the node that made what went in."""
    value = torch.zeros(1, requires_grad=True)
    inner = value * 2
    root = inner.sqrt()
    sick = slopes((root * 0).sum()).first
    assert sick is not None
    assert (sick.name, sick.seq, sick.operand) == ("Sqrt", root.grad_fn._sequence_nr(), inner.grad_fn)


def test_slope_of_a_quotient_is_its_divisor():
    """The slope by the dividend is infinite too, and by the divisor's fault."""
    over, under = torch.zeros(1, requires_grad=True) * 1, torch.zeros(1, requires_grad=True) * 1
    sick = slopes((over / under).nan_to_num().sum()).first
    assert sick is not None
    assert (sick.name, sick.operand) == ("Div", under.grad_fn)
    value = torch.ones(1, requires_grad=True) * 1
    sick = slopes((value / torch.zeros(1)).nan_to_num().sum()).first
    assert sick is not None
    assert (sick.name, sick.operand) == ("Div", value.grad_fn)


def test_slope_of_a_product_is_its_first_operand_with_a_history():
    """Two operands, one of them a constant."""
    value = torch.ones(1, requires_grad=True) * 1
    sick = slopes((torch.tensor([INF]) * value).nan_to_num(posinf=0).sum()).first
    assert sick is not None
    assert (sick.name, sick.operand) == ("Mul", value.grad_fn)


def test_slopes_leave_no_hooks_and_find_nothing_where_all_is_finite():
    """Of a graph that is used again."""
    value = torch.ones(1, requires_grad=True)
    looking = Slopes([value.sqrt().sum()])
    assert len(looking._handles) == 2
    looking.remove()
    assert (looking.first, looking._handles) == (None, [])
    assert slopes(torch.ones(1, requires_grad=True).exp().sum()).first is None


def test_slopes_blame_no_node_for_what_it_was_given():
    """A backward that starts from an infinite gradient."""
    result = torch.ones(1, requires_grad=True).exp()
    looking = Slopes([result])
    result.backward(torch.tensor([INF]))
    assert looking.first is None


def test_slopes_look_at_each_node_once():
    """A node with two readers is one; leaves' own nodes are left out."""
    value = torch.ones(1, requires_grad=True)
    shared = value.exp()
    assert len(Slopes([shared.sin() + shared.cos()])._handles) == 4
