"""The rules' pages in the documentation are those of the code."""

from __future__ import annotations

from pathlib import Path

from gradgate.checks.rules import RULES
from gradgate.report.pages import pages, write

RULES_FOLDER = Path(__file__).parents[3] / "docs" / "rules"


def test_pages_in_the_documentation_are_current():
    """docs/rules holds what `make docs` would write, and nothing else."""
    assert {path.name: path.read_text(encoding="utf-8") for path in RULES_FOLDER.glob("*.md")} == pages()


def test_pages_cover_every_rule():
    """Every rule has a page, and the index is one more."""
    assert len(pages()) == len(RULES) + 1


def test_write_removes_the_page_of_a_rule_that_is_gone(tmp_path):
    """A page without a rule does not survive the next writing."""
    (tmp_path / "GG999.md").write_text("old")
    write(tmp_path)
    assert not (tmp_path / "GG999.md").exists()
