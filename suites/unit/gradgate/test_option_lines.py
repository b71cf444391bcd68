"""GG414 names the line that keeps a key from its effect, and none where nothing shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fixtures import option_lines
from fixtures.check_runs import run_check
from fixtures.option_lines import Pieces, optioned
from gradgate.checks.naming import unnamed

TEMPERATURE = {"temperature": (0.7, 0.1)}
# Piece -> its bad form, the key, and a part of the line.
FAULTS: dict[str, tuple[str, Callable[..., Any], dict[str, Any], str]] = {
    "a constant": ("weights", option_lines.of_a_constant, TEMPERATURE, "temperature=0.7,"),
    "left out": ("weights", option_lines.left_out, TEMPERATURE, "return softened(score_BK)"),
    "ends in ranks": ("weights", option_lines.of_ranks, TEMPERATURE, "argsort"),
    "a coefficient": ("total", option_lines.plain_total, {"coefficient": (0.5, 1.0)}, "main + 0.5 * aside"),
    "a rate": ("groups", option_lines.slow_groups, {"lr": (0.1, 0.01)}, '"lr": 0.1'),
    "a gradient": ("scored", option_lines.without_gradient, {"gradient": ("detach", "through")}, "0.0 * cut_BK"),
}


def lines(piece: str, bad: Callable[..., Any], options: dict[str, Any], beside: Pieces | None = None) -> list[str]:
    """The lines that the findings name; empty text for none."""
    subject = optioned(options, beside, **{piece: bad})
    found = run_check("GG414", subject, subject.stages[0]).findings
    return [finding.culprit.source if finding.culprit else "" for finding in found if "bit for bit" in finding.message]


@pytest.mark.parametrize("name", FAULTS)
def test_key_without_effect_is_named_at_its_line(name: str) -> None:
    """Where a number stands instead, where it is not handed on, or where what it changes ends."""
    piece, bad, options, text = FAULTS[name]
    (line,) = lines(piece, bad, options)
    assert text in line


def test_argument_of_another_name_is_known_from_a_stage_that_gives_it() -> None:
    """The other stage hands the key to the same function."""
    beside = Pieces(weights=option_lines.of_the_power)
    (line,) = lines("weights", option_lines.of_a_constant_power, TEMPERATURE, beside)
    assert line == "return powered(score_BK, power=0.7)"


def test_no_line_is_named_where_nothing_shows_one() -> None:
    """Nobody is given the key, nothing that is computed differs, and nothing says that it should."""
    assert lines("weights", option_lines.unweighted, TEMPERATURE) == [""]


def test_no_line_is_looked_for_while_changes_are_tried() -> None:
    """They only ask whether the check passes."""
    with unnamed():
        assert lines(*FAULTS["a constant"][:3]) == [""]
