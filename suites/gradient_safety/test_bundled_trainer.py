"""The catalogue's checks of gradients, numerics, masks and state hold on both stages of the real trainer."""

from __future__ import annotations

import pytest

import gradgate

# Many runs, or several processes; `gradgate verify` has them.
LONG = ("GG405", "GG410", "GG414", "GG602", "GG604", "GG609", "GG610", "GG611")


@gradgate.parametrize(
    "gradgate_wmtp:subject",
    select=("GG0", "GG1", "GG2", "GG3", "GG4", "GG501", "GG502", "GG503", "GG6"),
    ignore=LONG,
)
def test_bundled_trainer_holds(check):
    """The check passes on every stage that it is for."""
    check()


@pytest.mark.nightly
@gradgate.parametrize("gradgate_wmtp:subject", select=LONG)
def test_bundled_trainer_holds_at_length(check):
    """So does what takes longer."""
    check()
