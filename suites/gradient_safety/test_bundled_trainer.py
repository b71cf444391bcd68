"""The catalogue's checks of gradients, numerics, masks and state hold on both stages of the real trainer."""

from __future__ import annotations

import gradgate


@gradgate.parametrize(
    "gradgate_wmtp:subject", select=("GG0", "GG1", "GG2", "GG3", "GG4", "GG501", "GG502", "GG503", "GG6")
)
def test_bundled_trainer_holds(check):
    """The check passes on every stage that it is for."""
    check()
