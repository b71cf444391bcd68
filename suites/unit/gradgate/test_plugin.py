"""The pytest plugin, tried as whole programs: one test a check, and nothing that did not run looks green."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch  # noqa: F401 - imported here once: a run inside this process forgets what it imports first

import fixtures
import gradgate.checks.runner  # noqa: F401 - likewise
from gradgate.checks import catalogue
from gradgate.checks.rules import RULES

SUITE = """
import gradgate

@gradgate.parametrize({subject}{options})
def test_trainer(check):
    check()
"""
LAZY = "'fixtures.plain_loop:capable'"


@pytest.fixture
def suite(pytester: pytest.Pytester, stub_checks):
    """Write a suite for a subject and run it in this process: `suite(*flags, subject=, options=) -> RunResult`."""

    def run(*flags: str, subject: str = LAZY, options: str = "", before: str = "") -> pytest.RunResult:
        pytester.makepyfile(test_mine=before + SUITE.format(subject=subject, options=options))
        return pytester.runpytest_inprocess("-ra", *flags, no_reraise_ctrlc=True)

    run.check = stub_checks
    return run


def test_parametrize_makes_one_test_a_check_with_its_code_as_id(suite):
    """Ids are the codes, in catalogue order; rules that are not built are no tests."""
    suite.check("GG402")
    suite.check("GG401")
    done = suite("-v")
    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines(["*test_trainer[[]GG401[]] PASSED*", "*test_trainer[[]GG402[]] PASSED*"])


@pytest.mark.parametrize(
    ("before", "subject"),
    [
        ("from fixtures.plain_loop import capable\n", "capable"),
        ("from fixtures.plain_loop import capable\n", "capable()"),
        ("", LAZY),
    ],
    ids=["factory", "subject", "target"],
)
def test_parametrize_takes_a_subject_in_any_form(suite, before: str, subject: str):
    """A Subject, a function that builds one, or its name."""
    suite.check("GG401", per_stage=True)
    suite(before=before, subject=subject).assert_outcomes(passed=1)


def test_parametrize_builds_the_subject_once_and_only_when_a_check_runs(suite):
    """Collecting costs nothing; two checks share one subject."""
    suite.check("GG401")
    suite.check("GG402")
    before = "from fixtures.plain_loop import subject\nbuilt = []\n"
    after = "def make():\n    built.append(1)\n    return subject()\n"
    collected = suite("--collect-only", before=before + "def make():\n    1 / 0\n", subject="make")
    collected.stdout.fnmatch_lines(["*2 tests collected*"])
    done = suite(before=before + after + "def test_last():\n    assert built == []\n", subject="make")
    done.assert_outcomes(passed=3)


def test_parametrize_selects_and_ignores(suite):
    """The same words as on the command line."""
    for code in ("GG401", "GG402", "GG501"):
        suite.check(code)
    done = suite("-v", options=", select=['GG4'], ignore=['weight-sum']")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*GG402*PASSED*"])


def test_failure_shows_the_finding_and_no_traceback_of_ours(suite):
    """The first line is the headline, numbers and the command follow, and no frame of the library is shown."""
    suite.check("GG401", "fail", per_stage=True)
    done = suite()
    done.assert_outcomes(failed=1)
    text = done.stdout.str()
    assert "E       CheckFailed: GG401 weight-sum: is wrong by 1\n" in text
    assert "seen:  error 1\n" in text
    assert "again: pytest 'test_mine.py::test_trainer[GG401]'\n" in text
    assert text.count("E         stage: ") == 2
    assert "plugin.py" not in text
    assert "check = GG401\n" in text
    done.stdout.fnmatch_lines(["FAILED test_mine.py::test_trainer[[]GG401[]] - CheckFailed: GG401 weight-sum: is*"])


def test_a_check_that_breaks_fails_its_test(suite):
    """An error of the harness is not green either."""
    suite.check("GG401", "crash")
    done = suite()
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*CheckFailed: GG401 weight-sum: error: RuntimeError: the check is at fault*"])


@pytest.mark.parametrize(
    ("body", "needs", "reason"),
    [
        ("pass", ("corpus",), "not applicable: give the subject `corpus=`: a function that returns gradgate.Corpus"),
        ("undecided", (), "inconclusive: too few seeds"),
    ],
)
def test_a_check_that_does_not_decide_is_skipped_with_its_reason(suite, body: str, needs: tuple, reason: str):
    """Skipped is not passed, and the reason is in the summary."""
    suite.check("GG401", body, needs=needs)
    done = suite()
    done.assert_outcomes(skipped=1)
    assert reason in done.stdout.str()


def test_a_check_that_one_stage_passes_is_passed_and_the_other_is_reported(suite):
    """A stage that a check does not apply to is in the closing section."""
    body = "return Outcome(not_applicable='no mask' if stage.name == 'train' else '')"
    suite.check("GG401", body, per_stage=True)
    done = suite()
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*= gradgate =*", "not applicable: GG401 (train): no mask"])


def test_an_expected_failure_is_xfailed_with_its_reason(suite, pytester: pytest.Pytester):
    """Known failures come from the project file."""
    suite.check("GG401", "fail")
    pytester.makepyprojecttoml('[tool.gradgate.expected]\nGG401 = "issue 7"\n[tool.pytest.ini_options]\n')
    done = suite()
    done.assert_outcomes(xfailed=1)
    done.stdout.fnmatch_lines(["XFAIL *GG401* - issue 7"])


def test_an_expected_failure_that_passes_fails(suite, pytester: pytest.Pytester):
    """Strict: what is mended leaves the list."""
    suite.check("GG401")
    pytester.makepyprojecttoml('[tool.gradgate.expected]\nGG401 = "issue 7"\n[tool.pytest.ini_options]\n')
    done = suite()
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*GG401 weight-sum: passed, though it is expected to fail (issue 7)*"])


ECHO = "raise RuntimeError(f'profile {{context.profile}} seed {{context.seed}}')"


@pytest.mark.parametrize(
    ("flags", "options", "ini", "seen"),
    [
        ([], "", "", "profile quick seed 0"),
        ([], "", "gradgate_profile = pr\ngradgate_seed = 4", "profile pr seed 4"),
        (["--gradgate-profile", "nightly"], "", "gradgate_profile = pr\ngradgate_seed = 4", "profile nightly seed 4"),
        (["--gradgate-seed", "5"], ", profile='pr', seed=6", "", "profile pr seed 6"),
    ],
    ids=["table", "ini", "flag", "decorator"],
)
def test_settings_come_from_the_decorator_the_flag_the_ini_file_or_the_table(
    suite, pytester: pytest.Pytester, flags: list[str], options: str, ini: str, seen: str
):
    """The nearest to the test wins."""
    suite.check("GG401", ECHO)
    pytester.makeini(f"[pytest]\n{ini}\n")
    done = suite(*flags, options=options)
    done.stdout.fnmatch_lines([f"*{seen}*"])
    again = " ".join(["pytest", "'test_mine.py::test_trainer[GG401]'", *flags])
    assert f"again: {again}\n" in done.stdout.str()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gradgate-profile=fast"], "--gradgate-profile: expected one of quick, pr, nightly, got 'fast'"),
        (["--gradgate-seed=x"], "--gradgate-seed: expected an integer from 0 to 4294967295, got 'x'"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(suite, flags: list[str], message: str):
    """pytest's own exit code for mistakes of use, one line, before anything is collected."""
    done = suite(*flags)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"ERROR: {message}*"])


def test_an_unknown_selector_is_an_error_of_collection(suite):
    """The message names the nearest rule."""
    done = suite(options=", select=['weight-som']")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*gradgate.parametrize: no rule fits 'weight-som'; did you mean 'weight-sum'?"])


def test_a_subject_that_does_not_build_fails_its_tests_in_one_line(suite):
    """What is wrong with TARGET is said where the check would have run."""
    suite.check("GG401")
    done = suite(subject="'fixtures.plain_loop:capabel'")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*CheckFailed: TARGET fixtures.plain_loop:capabel: *did you mean 'capable'?"])


def test_the_closing_section_says_what_is_not_built(suite):
    """Green tests do not pass for a whole catalogue."""
    suite.check("GG401")
    suite().stdout.fnmatch_lines([f"not built yet ({len(RULES) - 1}): GG001-GG004, GG100-GG110, *"])


def test_the_closing_section_is_missing_without_a_check(pytester: pytest.Pytester):
    """A suite that does not use the plugin does not hear of it."""
    pytester.makepyfile("def test_other(): pass")
    assert "gradgate" not in pytester.runpytest_inprocess().stdout.str().partition("collected")[2]


def test_ctrl_c_in_a_check_ends_the_session(suite):
    """The runner's grace is for the command line; pytest stops."""
    suite.check("GG401", "interrupt")
    suite.check("GG402")
    done = suite()
    assert done.ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.nightly
def test_results_travel_as_json_to_the_controller(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Under xdist the closing section is the same: results are in the reports, not in the process."""
    idle = next(rule.code for rule in RULES if not catalogue.is_built(rule))
    options = f", select=['GG100', '{idle}', 'GG401']"
    pytester.makepyfile(test_mine=SUITE.format(subject="'fixtures.plain_loop:subject'", options=options))
    monkeypatch.setenv("PYTHONPATH", str(Path(fixtures.__file__).parents[1]))
    done = pytester.runpytest_subprocess("-n", "1", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, skipped=1)
    done.stdout.fnmatch_lines(["not applicable: GG401: give the subject `functions=*"])


def test_a_check_can_be_called_without_pytest(stub_checks):
    """A decorated function's parameters are plain callables."""
    from gradgate.plugin import parametrize

    stub_checks("GG401", "fail")
    (parameter,) = parametrize("fixtures.plain_loop:subject", seed=3).args[1]
    with pytest.raises(AssertionError, match=r"GG401 weight-sum: is wrong by 1"):
        parameter.values[0]()
