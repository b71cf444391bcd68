"""The text form shows every status for what it is, and a finding as house style has it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fixtures.plain_loop import capable
from gradgate.checks.runner import check_trainer
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import STATUSES, Result, Verdict
from gradgate.report.model import build
from gradgate.report.progress import live
from gradgate.report.text import codes_in_short, number_lines, render, to_text

NAME = "value-head-not-better-than-constant"
FINDING = Finding(
    "GG101",
    "inplace-on-saved-tensor",
    "`weights` was overwritten after softmax() saved it for backward (version 0 -> 1)",
    culprit=Location("trainer.py", 263, "compute_head_weights", "weights_t[:, k] = 0.0"),
    victim=Location("trainer.py", 261, "compute_head_weights", "weights_t = F.softmax(delta / tau, dim=1)"),
    why="backward reads the overwritten numbers",
    fix="mask before the softmax",
)


def verdict(*results: Result, **options) -> Verdict:
    return Verdict("mine", {"torch": "2", "device": "cpu", "profile": "quick", "seed": 0}, results, **options)


def shown(*results: Result, **options) -> str:
    return to_text(build(verdict(*results, **options)))


def test_finding_is_written_as_house_style_has_it():
    """Headline, then where, saved, why, fix and more, each with its label."""
    assert FINDING.lines() == [
        "GG101 inplace-on-saved-tensor: " + FINDING.message,
        "  where: trainer.py:263 in compute_head_weights()      weights_t[:, k] = 0.0",
        "  saved: trainer.py:261 in compute_head_weights()      weights_t = F.softmax(delta / tau, dim=1)",
        "  why:   backward reads the overwritten numbers",
        "  fix:   mask before the softmax",
        "  more:  gradgate rule GG101",
    ]


def test_finding_leaves_out_what_is_unknown_and_counts_repeats():
    """No empty label; with a victim alone, that is where."""
    finding = Finding("GG401", "weight-sum", "off", victim=Location("a.py", 3), count=4)
    expected = ["GG401 weight-sum: off (4 times)", "  where: a.py:3", "  more:  gradgate rule GG401"]
    assert finding.lines() == expected


def test_numbers_stand_beside_their_bounds():
    """Observed and allowed are one phrase; a bound without a number is said too."""
    lines = number_lines({"error": 0.123456, "rows": 3, "curve": (1.0, 2.5)}, {"error": 1e-6, "least": 2})
    assert lines == ["error 0.1235 (allowed 1e-06)", "rows 3", "curve [1, 2.5]", "least allowed 2"]


@pytest.mark.parametrize(
    ("codes", "short"),
    [
        (["GG101"], "GG101"),
        (["GG102", "GG101"], "GG101, GG102"),
        (["GG001", "GG101", "GG102", "GG103", "GG201"], "GG001, GG101-GG103, GG201"),
        ([], ""),
    ],
)
def test_codes_become_ranges(codes: list[str], short: str):
    """A long list of codes fits into a line."""
    assert codes_in_short(codes) == short


def test_text_counts_every_status():
    """Nothing that did not run can look like one that passed: each status has its own number, 0 too."""
    results = [Result(f"GG40{n}", "weight-sum", status) for n, status in enumerate(STATUSES, 1)]
    counts = "1 passed, 1 failed, 1 expected, 1 not applicable, 1 not built, 1 inconclusive, 1 error; 0.0 s"
    assert f"results: {counts}" in " ".join(shown(*results).split())


def test_text_groups_by_family_and_leaves_not_built_to_one_line():
    """A family is a heading; what is not built is no row."""
    text = shown(
        Result("GG001", "subject-contract", "passed"),
        Result("GG401", "weight-sum", "passed", "main", 1.25),
        Result("GG402", "weight-outside", "not_built"),
    )
    lines = [line.split() for line in text.splitlines()]
    assert ["GG4", "weights,", "masks,", "boundaries,", "loss"] in lines
    assert ["GG401", "weight-sum", "main", "passed", "1.2", "s"] in lines
    assert ["not", "built", "yet", "(1):", "GG402"] in lines


def test_text_tells_of_failures_in_full():
    """Findings, stage, numbers and the command that shows it again."""
    failed = Result(
        "GG101", FINDING.name, "failed", "main", 0.1, (FINDING,), {"n": 1}, {"n": 0}, "", "gradgate verify -x"
    )
    text = shown(failed)
    assert "\n".join([*FINDING.lines(), "  stage: main", "  seen:  n 1 (allowed 0)"]) in text
    assert "  again: gradgate verify -x\n" in text
    assert text.endswith("verdict: failed\n")


def test_text_shows_three_findings_of_many():
    """A flood of findings does not hide the summary; those behind three have a line each, the rest is in the JSON."""
    text = shown(Result("GG101", FINDING.name, "failed", findings=(FINDING,) * 25))
    assert text.count("GG101 inplace-on-saved-tensor:") == 3
    assert text.count(f"  also:  {FINDING.message} (") == 20
    assert "  and 2 more; --json has them all\n" in text
    assert "more; --json" not in shown(Result("GG101", FINDING.name, "failed", findings=(FINDING,) * 5))


def test_text_shows_warnings_of_a_check_that_passed():
    """A warning fails nothing, and is not swallowed."""
    warning = Finding("GG001", "subject-contract", "slow", severity="warning")
    assert "GG001 subject-contract: slow" in shown(Result("GG001", "subject-contract", "passed", findings=(warning,)))


def test_text_gives_the_reason_of_everything_else():
    """Expected, inconclusive, broken and not applicable all say why."""
    text = shown(
        Result("GG401", "weight-sum", "expected", reason="issue 7"),
        Result("GG402", "weight-outside", "inconclusive", reason="too few seeds"),
        Result("GG403", "weight-oracle", "error", reason="RuntimeError: x\na.py:3 in f"),
        Result("GG404", "boundary-grid", "not_applicable", "main", reason="write it"),
        Result("GG405", "perturb-masked", "not_applicable", reason="write it"),
    )
    assert "GG401 weight-sum: fails as expected: issue 7\n" in text
    assert "GG402 weight-outside: inconclusive: too few seeds\n" in text
    assert "GG403 weight-oracle: error: RuntimeError: x\na.py:3 in f\n" in text
    assert "GG404 (main), GG405: write it\n" in text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"not_run": ("GG402", "GG403")}, "not run, stopped at the first failure (2): GG402, GG403"),
        ({"not_run": ("GG402",), "interrupted": True}, "not run, interrupted (1): GG402"),
        ({"interrupted": True}, "verdict: inconclusive: nothing failed, but not all is decided (interrupted)"),
    ],
)
def test_text_says_what_was_not_reached(options: dict, line: str):
    """After Ctrl-C or with exit-first the rest is named."""
    assert line in shown(Result("GG401", "weight-sum", "passed"), **options).splitlines()


def test_text_keeps_to_80_columns_but_for_the_lines_of_a_finding():
    """Tables and summary fit a narrow terminal even with long names; a log keeps findings whole for grep."""
    long = Result("GG506", NAME, "not_applicable", "a-stage-with-a-long-name", 123.4, reason="word " * 40)
    assert max(map(len, shown(long).splitlines())) <= 80


def test_terminal_wraps_findings_behind_their_label():
    """On a terminal nothing is wider than the screen, and colour is used."""
    failed = Result("GG101", FINDING.name, "failed", findings=(FINDING,))
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    console.print(render(build(verdict(failed))))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("         ") and line.strip() for line in lines)


def test_colour_is_left_out_when_the_user_says_so(monkeypatch: pytest.MonkeyPatch):
    """NO_COLOR is honoured."""
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True)
    console.print(render(build(verdict(Result("GG101", FINDING.name, "failed", findings=(FINDING,))))))
    assert "\x1b[31m" not in console.file.getvalue()
    assert ";31" not in console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_the_running_check_as_a_bar_or_as_lines(stub_checks, capsys, terminal: bool):
    """A terminal gets a bar; a log one line a check, on stderr, so that the report stays clean."""
    stub_checks("GG401", per_stage=True)
    stub_checks("GG402")
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)
    with live(console) as on_start:
        check_trainer(capable(), select=["GG401", "GG402"], on_start=on_start)
    lines = ["[1/3] GG401 weight-sum on warm-up", "[2/3] GG401 weight-sum on train", "[3/3] GG402 weight-outside"]
    assert capsys.readouterr().err.splitlines() == ([] if terminal else lines)
    assert ("GG402 weight-outside" in console.file.getvalue()) == terminal
