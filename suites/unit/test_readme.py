"""The README's example adapter is a program that does what the README says of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from gradgate.checks.rules import RULES
from gradgate.checks.runner import check_trainer

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def verdict():
    """The verdict on the README's plain loop."""
    scope: dict[str, object] = {}
    exec(compile(BLOCKS[0], str(README), "exec"), scope)  # noqa: S102 - our own text
    return check_trainer(scope["subject"]())


def test_readme_adapter_fails_for_want_of_a_guard_only(verdict):
    """As the README says, nothing but GG303 fails."""
    assert {result.code for result in verdict.results if result.status in {"failed", "error"}} == {"GG303"}


def test_readme_adapter_lets_the_general_checks_run(verdict):
    """The plain loop is enough for the plain step, dead parameters and the gradient check."""
    passed = {result.code for result in verdict.results if result.status == "passed"}
    assert {"GG001", "GG100", "GG201", "GG205"} <= passed


def test_readme_adapter_is_told_what_to_write_for_the_rest(verdict):
    """Each check that does not apply names the adapter's line that would enable it, or the stage it is for."""
    reasons = [result.reason for result in verdict.results if result.status == "not_applicable"]
    assert reasons
    assert all(reasons)


def test_readme_counts_the_rules():
    """The README's number of rules is the catalogue's."""
    assert f"of {len(RULES)} rules" in README.read_text(encoding="utf-8")


def test_readme_picture_is_small_and_asks_for_nothing():
    """Real output as SVG (`python -m benchmarks.picture`): below 40 kB, nothing from elsewhere, no foreign path."""
    (name,) = re.findall(r"!\[[^]]*\]\((.*?)\)", README.read_text(encoding="utf-8"))
    text = (README.parent / name).read_text(encoding="utf-8")
    assert len(text) < 40_000
    assert not re.search(r"url\((?!#)|@import|href=\"(?!#)|/tmp", text)
    assert "GG103" in "".join(ET.fromstring(text).itertext())  # noqa: S314 - our own file
