"""Excerpts: the lines around culprit and victim, as they were when the result was written."""

from __future__ import annotations

import linecache
from pathlib import Path

import pytest

from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Result, Verdict
from gradgate.report.excerpts import WITH_EXCERPT, excerpts
from gradgate.report.json import to_json

TEXT = "\n".join(["", "", *(f"    line {number}" for number in range(3, 60)), ""])


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A module of 59 lines, the first two of which are empty."""
    path = tmp_path / "train.py"
    path.write_text(TEXT, encoding="utf-8")
    linecache.checkcache(str(path))
    return str(path)


def finding(culprit: Location | None, victim: Location | None = None) -> Finding:
    return Finding("GG101", "inplace-on-saved-tensor", "x", culprit=culprit, victim=victim)


def at(file: str, line: int) -> Location:
    return Location(file, line, "step", f"line {line}")


def test_excerpt_holds_both_places_when_they_are_near(file: str):
    """One piece with three lines around, without the indentation that all of them share."""
    (one,) = excerpts(finding(at(file, 12), at(file, 10)))
    assert (one["file"], one["first"], one["lines"]) == (file, 7, [f"line {number}" for number in range(7, 16)])


def test_excerpt_is_two_when_the_places_are_far(file: str):
    """A piece each, in the order of the lines."""
    assert [one["first"] for one in excerpts(finding(at(file, 50), at(file, 10)))] == [7, 47]


def test_excerpt_leaves_empty_lines_at_the_edges_out(file: str):
    """The number of the first line moves with them."""
    (one,) = excerpts(finding(at(file, 4)))
    assert (one["first"], one["lines"][0]) == (3, "line 3")
    (one,) = excerpts(finding(at(file, 59)))
    assert one["lines"][-1] == "line 59"


def test_excerpt_is_absent_when_the_file_changed_or_is_gone(file: str):
    """Other text at that line would mark the wrong one."""
    assert excerpts(finding(Location(file, 10, "step", "line 11"), Location("gone.py", 1, "", "x"))) == []
    assert excerpts(finding(None)) == []


def test_json_has_excerpts_of_the_first_findings(file: str):
    """So many and no more: a scan with ten thousand findings stays a small file."""
    results = [Result("GG101", "n", "failed", findings=(finding(at(file, 10)),) * (WITH_EXCERPT + 1))]
    found = to_json(Verdict("mine", {}, tuple(results)))["results"][0]["findings"]
    assert [len(each["excerpt"]) for each in found] == [1] * WITH_EXCERPT + [0]
