"""GG004: a suppression without a reason fails, one with a reason passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.check_runs import errors, run_check
from gradgate.subjects.contract import Subject


def outcome(folder: Path, comment: str):
    (folder / "train.py").write_text(f"x = 1\nx += 1  # gradgate: ignore{comment}\n", encoding="utf-8")
    (folder / "broken.py").write_bytes(b"# -*- coding: nonsense -*-\n")
    return run_check("GG004", Subject("own", [], source=folder), None)


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("[data-write]", "the suppression of data-write gives no reason"),
        ("[data-wrote] -- ours", "a suppression names data-wrote, which is no rule"),
        (" -- ours", "a suppression names no rule"),
    ],
)
def test_suppression_fails_without_reason_or_rule(tmp_path: Path, comment: str, message: str) -> None:
    """Each is told with its line; a file that cannot be read does not end it."""
    found = outcome(tmp_path, comment)

    assert errors(found) == [message]
    assert (found.findings[0].culprit.file, found.findings[0].culprit.line) == (str(tmp_path / "train.py"), 2)


def test_suppression_passes_with_rule_and_reason(tmp_path: Path) -> None:
    """By name or by code."""
    assert outcome(tmp_path, "[GG103] -- our own copy").findings == ()


def test_suppression_check_does_not_apply_without_a_source() -> None:
    """And says what would enable it."""
    assert "source=FOLDER" in run_check("GG004", Subject("own", []), None).not_applicable
