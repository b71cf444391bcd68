"""Lines of several processes: what of their values one process explains, and where two ways part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradgate.checks.rank_facts import Backward, Facts
from gradgate.checks.rank_lines import _of_early, _of_manager, _of_share
from gradgate.checks.rank_values import Point, Seen, are_of_the_group, is_explained, is_sum, plain, ratio
from gradgate.checks.rank_ways import parting
from gradgate.core.finding import Location

WITH, YIELD, CALL = (Location("train.py", line, "", "") for line in (1, 2, 3))


@pytest.mark.parametrize(
    ("whole", "parts", "explained"),
    [
        (4.0, [4.0, 4.0], True),
        (4.0, [1.0, 3.0], True),
        (4.0, [8.0, 8.0], False),
        ((0.0, 1.0, 2.0), [(0.0, 2.0), (1.0,)], True),
        ((0.0, 1.0, 2.0), [(0.0, 2.0), (0.0, 2.0)], False),
        (np.array([4.0, 2.0]), [np.array([1.0, 2.0]), np.array([3.0, 2.0])], True),
        (np.array([4.0, 2.0]), [np.array([1.0, 4.0]), np.array([3.0, 4.0])], False),
        (np.zeros((3, 2)), [np.zeros((2, 2)), np.zeros((1, 2))], True),
        (b"one", [b"one", b"other"], False),
        (None, [1.0, 2.0], True),
    ],
)
def test_value_is_explained_when_it_is_that_of_one_or_a_share(whole: Any, parts: Any, explained: bool) -> None:
    """The same in each, a sum, each item once; what cannot be compared is no candidate."""
    assert is_explained(whole, parts) is explained


def test_share_of_a_number_is_told_from_the_number() -> None:
    """What adds up is a share; what all have is not."""
    assert is_sum(4.0, [1.0, 3.0])
    assert not is_sum(4.0, [4.0, 4.0])
    assert is_sum((4.0, 1.0), [(1.0, 0.5), (3.0, 0.5)])


def test_ratio_is_a_whole_number_or_one_over_it() -> None:
    """Twice too large and half as large are; a little off is rounding or other rows."""
    assert ratio(2.0, [2.0, 2.0]) == pytest.approx(2.0)
    assert ratio(np.array([4.0, 8.0]), [np.array([1.0, 2.0])] * 2) == pytest.approx(0.5)
    assert ratio(2.0, [1.1, 1.2]) is None
    assert ratio(2.0, [1.0, 1.0]) is None
    assert ratio(0.0, [1.0, 1.0]) is None


def test_number_of_processes_is_no_candidate() -> None:
    """Nor a rank, nor what holds both; a count of rows is one."""
    assert are_of_the_group(1.0, [2.0, 2.0])
    assert are_of_the_group((0.0, 1.0, 7.0), [(0.0, 2.0, 7.0), (1.0, 2.0, 7.0)])
    assert not are_of_the_group(3.0, [2.0, 2.0])


def test_plain_values_leave_flags_and_modules_out() -> None:
    """Who leads differs by design; a list of numbers is compared."""
    assert plain(True) is None
    assert plain(object()) is None
    assert plain([1, 2]) == (1.0, 2.0)
    assert plain({"a": 1, "b": "text"}) == (1.0, None)


def test_list_that_is_not_parted_is_named_where_it_is_returned() -> None:
    """Each process takes the same half; a right share names nothing."""
    point = Point("data.py", 5, "return", "share")
    alone = Facts([Seen(point, 6, (0.0, 1.0), (0.0, 1.0))])

    def several(*parts: tuple[float, ...]) -> list[Facts]:
        return [Facts([Seen(point, 7, part, (0.0, 1.0))]) for part in parts]

    found = _of_share(alone, several((0.0,), (0.0,)))
    assert found is not None
    assert (found.file, found.line) == ("data.py", 7)
    assert _of_share(alone, several((0.0,), (1.0,))) is None


def test_gradients_that_cross_early_are_named_at_the_manager_that_lets_them() -> None:
    """The first micro-batch's are there everywhere, and once more with the second's."""
    alone = Facts(backwards=[Backward(CALL, YIELD, WITH, (0.0,), (1.0,)), Backward(CALL, YIELD, WITH, (1.0,), (3.0,))])
    early = Facts(backwards=[Backward(CALL, YIELD, WITH, (0.0,), (1.0,)), Backward(CALL, YIELD, WITH, (1.0,), (4.0,))])

    assert _of_early(alone, early, 2) == YIELD
    assert _of_early(alone, alone, 2) is None


def test_manager_that_is_always_told_the_same_is_not_to_blame() -> None:
    """What enters it is; without a manager the backward, where one ought to be."""
    same = [Backward(CALL, YIELD, WITH, (0.0,), ())] * 2
    bare = [Backward(CALL, None, None, None, ())] * 2

    assert _of_manager(same, changes=False) == WITH
    assert _of_manager(bare, changes=True) == CALL
    assert _of_manager([], changes=True) is None


def test_ways_part_at_the_branch_of_the_function_that_goes_on() -> None:
    """A property that the branch asked ran last, and is not the branch."""
    common = [("a.py", "step", 1, 1), ("a.py", "step", 2, 1), ("b.py", "leader", 9, 2)]
    waits = [*common, ("a.py", "step", 3, 1), ("c.py", "reduce", 4, 2)]
    goes = [*common, ("a.py", "step", 5, 1), ("c.py", "reduce", 4, 2)]

    found = parting(waits, goes)
    assert found is not None
    assert (found.file, found.line) == ("a.py", 2)
    assert parting(common, common) is None
