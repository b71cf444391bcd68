"""GG489: a checkpoint that is written straight to its final name is found, and one that is renamed is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.check_runs import errors, run_check
from fixtures.source_faults import reading
from fixtures.written_in_place import FAULTS, SOUND


@pytest.mark.parametrize("name", FAULTS)
def test_a_checkpoint_written_in_place_is_found(name: str, tmp_path: Path) -> None:
    """Where it is written, once."""
    text, function = FAULTS[name]
    outcome = run_check("GG489", reading(tmp_path, text), None)
    (finding,) = outcome.findings
    assert errors(outcome)
    assert finding.culprit is not None and "torch.save(" in finding.culprit.source
    assert finding.message.startswith(f"{function}() writes what a run goes on from straight to its final name")


@pytest.mark.parametrize("name", SOUND)
def test_a_checkpoint_that_is_whole_under_its_name_is_none(name: str, tmp_path: Path) -> None:
    """Nor what no resume reads."""
    outcome = run_check("GG489", reading(tmp_path, SOUND[name]), None)
    assert not outcome.findings and not outcome.not_applicable
