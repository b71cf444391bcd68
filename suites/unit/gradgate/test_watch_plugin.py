"""The pytest side of the watch: fixture, marker, flag and ini key; a finding fails the test."""

from __future__ import annotations

import pytest
import torch  # noqa: F401 - imported here once: a run inside this process forgets what it imports first

import gradgate.watch.block  # noqa: F401 - likewise

FAULT = """
    gate = torch.nn.Linear(3, 3)(torch.ones(2, 3)).sigmoid()
    gate.data.clamp_(max=0.1)
    gate.sum().backward()
"""
HEAD = "import pytest, torch\n\n"
SUMMARY = "FAILED *test_it - GradientFault: GG103 data-write: `gate` was*"


@pytest.fixture
def run(pytester: pytest.Pytester):
    """Write a test file and run it in this process."""

    def run(text: str, *flags: str, ini: str = "") -> pytest.RunResult:
        pytester.makepyfile(test_mine=HEAD + text)
        if ini:
            pytester.makeini(f"[pytest]\n{ini}\n")
        return pytester.runpytest_inprocess("-ra", *flags)

    return run


@pytest.mark.parametrize(
    ("text", "flags", "ini"),
    [
        ("def test_it(gradient_watch):" + FAULT, (), ""),
        ("@pytest.mark.gradient_watch\ndef test_it():" + FAULT, (), ""),
        ("def test_it():" + FAULT, ("--gradient-watch",), ""),
        ("def test_it():" + FAULT, (), "gradient_watch = true"),
    ],
    ids=["fixture", "marker", "flag", "ini"],
)
def test_a_finding_fails_the_test_with_its_first_line(run, text: str, flags: tuple[str, ...], ini: str):
    """Pytest's summary names the fault."""
    done = run(text, *flags, ini=ini)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([SUMMARY])


def test_a_test_that_does_not_ask_is_not_watched(run):
    """Off by default; and off by marker where the flag is on."""
    run("def test_it():" + FAULT).assert_outcomes(passed=1)
    run("@pytest.mark.gradient_watch(False)\ndef test_it():" + FAULT, "--gradient-watch").assert_outcomes(passed=1)


def test_the_fixture_shows_findings_while_the_test_runs(run):
    """The test can look for itself."""
    body = "    assert gradient_watch.findings[0].kind == 'silent_data_write'\n    raise ValueError\n"
    done = run("def test_it(gradient_watch):" + FAULT + body)
    done.stdout.fnmatch_lines(["FAILED *test_it - ValueError"])


def test_a_test_without_a_fault_passes(run):
    """Watched and clean."""
    body = "    torch.nn.Linear(3, 3)(torch.ones(2, 3)).sum().backward()\n"
    run("def test_it(gradient_watch):\n" + body).assert_outcomes(passed=1)
