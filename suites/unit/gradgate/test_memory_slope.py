"""GG802: what grows is named with its line and its holder; what has a fixed size is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from fixtures import memory_faults
from fixtures.check_runs import errors, run_check
from fixtures.memory_faults import GROWING, STEADY
from fixtures.pytest_fixtures import rest_at_night
from gradgate.checks.gg802_memory_slope import highest
from gradgate.gates.growth import rising

pytestmark = pytest.mark.usefixtures("nothing_set_aside")


@pytest.mark.parametrize("after", rest_at_night(GROWING, day=2))
def test_memory_slope_names_line_and_holder(after: Callable[..., Any]) -> None:
    """Each way to grow is one finding, at the line that makes what stays."""
    told, source = GROWING[after]
    subject = memory_faults.subject(after)

    (finding,) = run_check("GG802", subject, subject.stages[0]).findings

    assert told in finding.message
    assert (finding.culprit.source if finding.culprit else None) == source


@pytest.mark.parametrize("after", rest_at_night(STEADY, day=1))
def test_memory_slope_passes_when_the_size_is_fixed(after: Callable[..., Any]) -> None:
    """A ring buffer, a cache a sample, garbage in cycles and a removed hook are no growth."""
    subject = memory_faults.subject(after)

    outcome = run_check("GG802", subject, subject.stages[0])

    assert (errors(outcome), outcome.measured) == ([], {"bytes_a_step": 0.0, "hooks_a_step": 0.0})


def test_memory_slope_names_line_beside_a_lazy_module() -> None:
    """Parameters that a lazy module has yet to make, wherever in the process, do not stop the search for the holder."""
    lazy = torch.nn.LazyLinear(2)
    subject = memory_faults.subject(next(iter(GROWING)))

    (finding,) = run_check("GG802", subject, subject.stages[0]).findings

    assert isinstance(lazy.weight, torch.nn.UninitializedParameter)
    assert "kept by" in finding.message


def test_memory_slope_leaves_out_what_optimizers_keep() -> None:
    """LBFGS gathers a history of a hundred updates on purpose."""
    subject = memory_faults.subject(memory_faults.keeps_nothing, partial(torch.optim.LBFGS, max_iter=1))

    assert errors(run_check("GG802", subject, subject.stages[0])) == []


def test_memory_slope_hands_over_one_step_and_its_saving_lines() -> None:
    """What the report draws: bytes alive through a step, and the line that saves most, in the subject's own words."""
    subject = memory_faults.subject(memory_faults.keeps_nothing)

    series = run_check("GG802", subject, subject.stages[0]).series

    course = [size for _, size in series["step_bytes"]["alive"]]
    sizes = [points[0][1] for points in series["saved_bytes"].values()]
    assert max(course) >= sum(sizes) > 0
    assert sizes == sorted(sizes, reverse=True)
    assert all(line.startswith("fixtures/memory_faults.py:") for line in series["saved_bytes"])


def test_highest_keeps_every_peak() -> None:
    """A long course in few points, each the highest of its stretch; a short one as it is."""
    assert highest([0, 9, 1, 1, 7, 2, 3], 3) == [(2.0, 9.0), (5.0, 7.0), (7.0, 3.0)]
    assert highest([4, 5], 3) == [(1.0, 4.0), (2.0, 5.0)]
    assert highest([], 3) == []


def test_rising_wants_every_window() -> None:
    """What stood still or fell once does not grow; what is not there yet counts as nothing."""
    looks = [{"a": 1, "b": 1, "c": 3}, {"a": 2, "b": 1, "c": 2, "d": 1}, {"a": 4, "b": 5, "c": 4, "d": 2}]

    assert rising(looks) == {"a": 3, "d": 2}


def test_memory_slope_names_the_step_that_raises() -> None:
    """A step that raises is a finding, not a broken harness."""

    def breaks(run: Any, hidden: Any) -> None:
        raise ValueError("no more")

    subject = memory_faults.subject(breaks)

    assert errors(run_check("GG802", subject, subject.stages[0])) == ["step 1 raised ValueError: no more"]
