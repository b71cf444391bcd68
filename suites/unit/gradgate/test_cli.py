"""The command line: what it prints, what it writes, and the exit code of each ending."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest
import torch
from click.shell_completion import BashComplete
from click.testing import CliRunner, Result

from gradgate import __version__, cli
from gradgate.checks import catalogue
from gradgate.commands import verify as commands
from gradgate.commands.rule import show_rule
from gradgate.subjects import loading

TARGET = "fixtures.plain_loop:capable"


def gradgate(*words: str) -> Result:
    return CliRunner().invoke(cli.cli, words, prog_name="gradgate")


def verify(*words: str) -> Result:
    return gradgate("verify", TARGET, *words)


@pytest.mark.parametrize(
    ("body", "code"), [("pass", 0), ("fail", 1), ("undecided", 3), ("crash", 4), ("interrupt", 130)]
)
def test_verify_exits_with_the_code_of_its_verdict(stub_checks, body: str, code: int):
    """0 all hold, 1 failed, 3 inconclusive, 4 the harness broke, 130 interrupted."""
    stub_checks("GG401", body)
    done = verify("--select", "GG401", "--jobs", "0")  # in this process a check's interrupt is the user's
    assert done.exit_code == code
    assert done.stdout.splitlines()[-1].startswith("verdict: ")


def test_verify_exits_with_3_when_nothing_ran(stub_checks):
    """A catalogue in which nothing is built proves nothing."""
    assert verify().exit_code == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--select", "weight-som"], "Error: no rule fits 'weight-som'; did you mean 'weight-sum'?"),
        (["--stage", "trian"], "Error: capable loop has no stage 'trian', only warm-up, train; did you mean 'train'?"),
        (["--device", "gpu"], "Error: --device 'gpu' is no device; expected cpu, cuda or cuda:N"),
        (["--profile", "fast"], "Error: Invalid value for '--profile': 'fast' is not one of 'quick', 'pr', 'nightly'."),
        (["--seed", "-1"], "Error: Invalid value for '--seed': -1 is not in the range 0<=x<=4294967295."),
        (["--path", "nowhere"], "Error: --path nowhere: no such folder"),
        (["--ignroe", "GG4"], "Error: No such option '--ignroe'. Did you mean '--ignore'?"),
        (["--json", "/proc/no/file"], "Error: cannot write /proc/no/file: No such file or directory"),
    ],
)
def test_verify_exits_with_2_and_one_line_when_misused(stub_checks, words: list[str], message: str):
    """Each mistake of use names what was given and what is valid."""
    done = verify(*words)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].lower() == message.lower()
    assert "Traceback" not in done.output


def test_verify_exits_with_2_when_the_target_does_not_build():
    """A TARGET that is not there is a mistake of use."""
    done = gradgate("verify", "fixtures.plain_loop:subjct")
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: TARGET fixtures.plain_loop:subjct: fixtures.plain_loop has no 'subjct'; did you mean 'subject'?\n"
    )


def test_verify_exits_with_2_when_there_is_no_such_gpu(stub_checks, monkeypatch: pytest.MonkeyPatch):
    """A missing device is said before anything runs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert verify("--device", "cuda").stderr.endswith("this machine has no CUDA device that torch can use\n")


def test_verify_drives_the_registered_subject_without_a_target(stub_checks, monkeypatch: pytest.MonkeyPatch):
    """Without TARGET the entry point decides, and the command to reproduce names none."""
    stub_checks("GG401", "fail")
    monkeypatch.setattr(loading, "_only_registered", lambda: TARGET)
    done = gradgate("verify", "--select", "GG401")
    assert "  again: gradgate verify --select GG401 --seed 0\n" in done.stdout


def test_verify_narrows_by_commas_repeats_and_ignore(stub_checks):
    """Selectors may be joined or repeated, and --ignore takes away."""
    for code in ("GG401", "GG402", "GG403", "GG501"):
        stub_checks(code, "fail")
    done = verify("--select", "GG401,weight-outside", "--select", "GG5", "--ignore", "GG402")
    assert [code for code in ("GG401", "GG402", "GG403", "GG501") if f"\n{code} " in done.stdout] == ["GG401", "GG501"]


def test_verify_gives_a_command_that_reproduces_with_target_and_path(stub_checks, tmp_path: Path):
    """The line can be pasted into a shell."""
    stub_checks("GG401", "fail", per_stage=True)
    before = list(sys.path)
    done = verify("--select", "GG401", "--path", str(tmp_path), "--seed", "3", "--stage", "train")
    sys.path[:] = before
    assert f"  again: gradgate verify {TARGET} --path {tmp_path} --select GG401 --seed 3\n" in done.stdout


def test_verify_stops_at_the_first_failure_when_asked(stub_checks):
    """-x runs nothing behind a failure, and says so."""
    stub_checks("GG401", "fail")
    stub_checks("GG402")
    done = verify("-x", "--select", "GG401,GG402", "--jobs", "1")
    assert "not run, stopped at the first failure (1): GG402" in done.stdout


def test_verify_writes_json_and_report(stub_checks, tmp_path: Path):
    """--json writes the results, --report a folder with the same and the text."""
    stub_checks("GG401")
    done = verify("--select", "GG401", "--json", str(tmp_path / "a.json"), "--report", str(tmp_path / "r"))
    tree = json.loads((tmp_path / "a.json").read_text())
    assert (tree["verdict"], tree["subject"]) == ("passed", "capable loop")
    assert tree == json.loads((tmp_path / "r" / "verify.json").read_text())
    assert (tmp_path / "r" / "verify.txt").read_text() in done.stdout


def test_verify_reads_expected_failures_of_the_project(stub_checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A known failure with its reason does not change the verdict."""
    stub_checks("GG401", "fail")
    stub_checks("GG402")
    (tmp_path / "pyproject.toml").write_text('[tool.gradgate.expected]\nGG401 = "issue 7"\n')
    monkeypatch.chdir(tmp_path)
    done = verify("--select", "GG401,GG402")
    assert done.exit_code == 0
    assert "GG401 weight-sum: fails as expected: issue 7" in done.stdout


def test_verify_shows_progress_and_colour_on_a_terminal(stub_checks, monkeypatch: pytest.MonkeyPatch):
    """A terminal gets the wrapped, coloured form."""
    stub_checks("GG401")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in verify("--select", "GG401").stdout


def test_a_bug_of_ours_exits_with_4_and_one_line(stub_checks, monkeypatch: pytest.MonkeyPatch):
    """The user is told that it is not their fault, without a traceback."""

    def broken(*arguments, **options):
        raise RuntimeError("oh no")

    monkeypatch.setattr("gradgate.checks.runner.check_trainer", broken)
    done = verify()
    assert done.exit_code == 4
    assert done.stderr.startswith("gradgate itself broke, which is a bug in it: RuntimeError: oh no (")
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_outside_of_a_check_exits_with_130(monkeypatch: pytest.MonkeyPatch):
    """Also while the subject is being built."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load_target", interrupted)
    assert verify().exit_code == 130


def test_rule_prints_a_page_by_code_or_name(stub_checks):
    """Piped, a page is its Markdown."""
    stub_checks("GG401")
    by_code = gradgate("rule", "gg401")
    assert by_code.exit_code == 0
    assert by_code.stdout == gradgate("rule", "weight-sum").stdout == catalogue.page(catalogue.rule("GG401"))


def test_rule_renders_markdown_on_a_terminal(stub_checks, monkeypatch: pytest.MonkeyPatch, capsys):
    """On a terminal the marks of Markdown are gone."""
    stub_checks("GG401")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show_rule.callback("GG401", False)
    shown = capsys.readouterr().out
    assert "How to fix" in shown
    assert "## " not in shown


def test_rule_says_not_built_yet(stub_checks):
    """A rule without a check has a page all the same."""
    assert "**Not built yet.**" in gradgate("rule", "GG401").stdout


def test_rule_lists_all_with_what_is_built(stub_checks):
    """The list says of each rule whether something looks for it."""
    stub_checks("GG401")
    lines = gradgate("rule", "--list").stdout.splitlines()
    assert "  GG401  weight-sum" in lines
    assert "  GG402  weight-outside                      not built yet" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rule", "GG412x"], "Error: no rule 'GG412x'; did you mean 'GG412'?"),
        (["rule"], "Error: give a CODE such as GG401, or --list"),
        (
            ["verfy"],
            (
                "Error: no command 'verfy', only "
                "baseline, blame, compare, faults, init, report, rule, scan, verify; did you mean 'verify'?"
            ),
        ),
    ],
)
def test_unknown_words_exit_with_2(words: list[str], message: str):
    """Commands and codes are helped alike."""
    done = gradgate(*words)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, message)


def test_help_teaches_with_examples_and_exit_codes():
    """The first thing a newcomer reads is enough to begin."""
    text = " ".join(gradgate("--help").stdout.split())
    assert "gradgate verify my_project.adapter:subject" in text
    assert "Exit codes of verify: 0 all hold, 1 something failed, 2 usage" in text
    assert "gradgate verify --profile nightly --device cuda" in gradgate("verify", "--help").stdout


def test_version_is_the_packages():
    """One version, in one place."""
    assert gradgate("--version").stdout == f"gradgate {__version__}\n"


def test_codes_are_completed_by_the_shell():
    """A beginning of a code offers the codes that go on from it."""
    parameter = commands.verify.params[1]
    items = commands.Selector().shell_complete(click.Context(commands.verify), parameter, "gg40")
    assert [item.value for item in items][:2] == ["GG401", "GG402"]


def test_main_is_the_entry_point(monkeypatch: pytest.MonkeyPatch, capsys):
    """The installed command runs the group under its own name."""
    monkeypatch.setattr(sys, "argv", ["gradgate", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"gradgate {__version__}\n"


@pytest.mark.parametrize(
    ("words", "begun", "expected"),
    [([], "ver", ["verify"]), (["verify"], "--sel", ["--select"]), (["verify", "--select"], "gg40", "GG401")],
)
def test_shell_completion_knows_commands_options_and_codes(words: list[str], begun: str, expected: list[str] | str):
    """As the README says, by click's own script."""
    found = [
        item.value for item in BashComplete(cli.cli, {}, "gradgate", "_GRADGATE_COMPLETE").get_completions(words, begun)
    ]
    assert found == expected or (len(found) == 9 and found[0] == expected)
