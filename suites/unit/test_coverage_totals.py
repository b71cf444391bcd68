"""The coverage gate: together and each package alone."""

from __future__ import annotations

import json

import pytest

from benchmarks.coverage_totals import main


def report(**covered: int) -> str:
    """A report of one file a package, ten lines and ten branches each, so many of the lines covered."""
    folders = {"harness": "harness/gradgate", "adapter": "harness/gradgate_wmtp", "trainer": "wmtp"}
    return json.dumps({"files": {f"{folders[name]}/a.py": {"summary": {
        "covered_lines": lines, "covered_branches": 10, "num_statements": 10, "num_branches": 10,
        "missing_lines": 10 - lines}} for name, lines in covered.items()}})  # fmt: skip


@pytest.mark.parametrize(("lines", "code"), [(8, 0), (7, 1)])
def test_a_package_that_is_covered_too_little_is_named_with_its_files(
    lines: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where all together are covered well."""
    assert main(report(harness=lines, adapter=10, trainer=10)) == code

    told = capsys.readouterr().out
    assert f"percent: harness/gradgate {50 + 5 * lines}.0\n" in told and "percent: all 9" in told
    assert ("lines that no test reaches: harness/gradgate/a.py 3" in told) is bool(code)
