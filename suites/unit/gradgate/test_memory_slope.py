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
from gradgate.gates.growth import rising


@pytest.mark.parametrize("after", rest_at_night(GROWING, day=4))
def test_memory_slope_names_line_and_holder(after: Callable[..., Any]) -> None:
    """Each way to grow is one finding, at the line that makes what stays."""
    told, source = GROWING[after]
    subject = memory_faults.subject(after)

    (finding,) = run_check("GG802", subject, subject.stages[0]).findings

    assert told in finding.message
    assert (finding.culprit.source if finding.culprit else None) == source


@pytest.mark.parametrize("after", rest_at_night(STEADY, day=2))
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
