"""The markers of a user's own test: a budget against a base, a limit on tensor memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch._dynamo  # noqa: F401 - imported here once: a run inside this process forgets what it imports first

import gradgate.gates.counters  # noqa: F401 - likewise
from fixtures.two_checkouts import commit
from gradgate.compare import session
from gradgate.compare.session import NewBenchmarkError
from gradgate.core.comparison import Comparison, Metric
from gradgate.core.errors import GradgateError
from gradgate.core.sizes import as_bytes, as_text
from gradgate.markers import Budget

SPEED = """
import pytest
import torch


def build(extra):
    torch.manual_seed(0)
    net, x = torch.nn.Linear(4, 4), torch.randn(3, 4)

    def step():
        net.zero_grad()
        net(x).sum().backward()
        for _ in range(extra):
            torch.mm(x, x.T)

    return step


def make():
    return build({extra})


def old():
    return build(0)


@pytest.mark.gradgate_budget(make, {arguments})
def test_speed():
    assert make() is not None
"""
MEMORY = """
import pytest
import torch


@pytest.mark.gradgate_limit_memory({limit})
def test_memory():
    kept = torch.zeros(1000)
    wide = torch.zeros(3000)
    del wide
    torch.zeros(2000)
"""
RATE = {"false_alarms": 1, "pairs": 300, "false_alarm_rate_interval": [0, 0.0186]}
SELF_CHECK = {"ratio": 1.0, "verdict": "pass", **RATE}


@pytest.fixture
def run(pytester: pytest.Pytester):
    """Write a test file and run it in this process."""

    def run(text: str, *flags: str) -> pytest.RunResult:
        pytester.makepyfile(test_mine=text)
        return pytester.runpytest_inprocess("-rA", *flags)

    return run


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch):
    """A canned comparison; the questions that were asked."""
    asked: list[Any] = []

    def use(*metrics: Metric, error: Exception | None = None, **fields: Any) -> list[Any]:
        def compare(question: Any, on_progress: Any) -> Comparison:
            asked.append(question)
            if error:
                raise error
            return Comparison(question.target, "b", "h", metrics, self_check=SELF_CHECK, **fields)

        monkeypatch.setattr(session, "compare", compare)
        return asked

    return use


SLOWER = Metric("cpu_time", "fail", ratio=1.05, interval=(1.03, 1.07), tolerance=0.03, blocks=9, mode="one-process")
HEAVIER = Metric("op_count", "fail", base=1, head=2, where="test_mine.py:4 in step()")


def test_a_budget_fails_the_test_with_the_report(run, answered):
    """The whole report of the comparison, the observed false alarms in it."""
    asked = answered(SLOWER)
    done = run(SPEED.format(extra=0, arguments="base=old"))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        ["*OverBudget: cpu_time of test_mine:make grew against b", "*cpu_time *fail *+5.0%*", "*: 1 of 300 A/A pairs*"]
    )
    assert (asked[0].target, asked[0].base_target) == ("test_mine:make", "test_mine:old")


def test_a_budget_passes_and_keeps_the_report(run, answered):
    """It is a section of the test's own output."""
    answered(Metric("op_count", "pass", base=1, head=1))
    done = run(SPEED.format(extra=0, arguments="base='test_mine:old'"))
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*verdict: pass*"])


def test_a_noisy_budget_is_a_skip_with_its_reason(run, answered):
    """Never green in silence, never blamed on the code."""
    answered(Metric("cpu_time", "noisy", reason="too wide"))
    done = run(SPEED.format(extra=0, arguments="base=old"))
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["SKIPPED*inconclusive: noisy: too wide"])


def test_a_budget_of_some_metrics_leaves_the_others_out(run, answered):
    """Another algorithm runs other operations."""
    answered(Metric("cpu_time", "pass", ratio=1.0, interval=(0.99, 1.01), tolerance=0.03), HEAVIER)
    run(SPEED.format(extra=0, arguments="base=old, only=['cpu_time']")).assert_outcomes(passed=1)


def test_a_function_that_base_lacks_is_a_skip(run, answered):
    """A new benchmark has nothing to compare with, and it says so."""
    answered(error=NewBenchmarkError("base has no 'make'; a new benchmark? --new"))
    done = run(SPEED.format(extra=0, arguments="base=old"))
    done.stdout.fnmatch_lines(["SKIPPED*nothing to compare with: base has no 'make'"])


@pytest.mark.parametrize("arguments", ["base_ref='nowhere'", "base=lambda: None"])
def test_a_base_that_is_not_there_fails_in_one_line(run, arguments: str):
    """A revision outside any repository; a function without a name."""
    done = run(SPEED.format(extra=0, arguments=arguments))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["FAILED test_mine.py::test_speed - OverBudget: *"])


def test_a_side_that_breaks_fails_with_its_error(run, answered):
    """It is no verdict on speed."""
    answered(broken={"side": "base", "doing": "stepping", "error": "ValueError: no"})
    done = run(SPEED.format(extra=0, arguments="base=old"))
    done.stdout.fnmatch_lines(["*OverBudget: base broke, while stepping: ValueError: no*"])


def test_a_failing_test_is_not_compared(run, answered):
    """Its own failure comes first."""
    asked = answered(SLOWER)
    run(SPEED.format(extra=0, arguments="base=old").replace("is not None", "is None")).assert_outcomes(failed=1)
    assert asked == []


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("gradgate_budget(base='a:b')", "gradgate_budget: missing 1 required positional argument: 'head'"),
        ("gradgate_budget('a:b', bas='a:b')", "gradgate_budget: got an unexpected keyword argument 'bas'*"),
        ("gradgate_budget('a:b')", "gradgate_budget: give one of base=FUNCTION and base_ref='REVISION'"),
        ("gradgate_budget('a:b', base='a:c', tolerance=3)", "gradgate_budget: tolerance=3 is no share between 0 and 1"),
        ("gradgate_budget('a:b', base='a:c', only=['leaks'])", "*no metric 'leaks'; did you mean 'leak'?"),
        ("gradgate_limit_memory()", "gradgate_limit_memory: expected one size, such as '24 MiB'"),
        ("gradgate_limit_memory('24 mib')", "gradgate_limit_memory: '24 mib' is no size; write a number of bytes, *"),
    ],
)
def test_a_marker_that_is_wrong_stops_the_session(run, marker: str, message: str):
    """One line, before any test runs."""
    done = run(f"import pytest\n\n\n@pytest.mark.{marker}\ndef test_it():\n    pass\n")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_a_method_is_no_factory(tmp_path: Path):
    """A fresh process imports it by its name."""

    def inner() -> None: ...

    with pytest.raises(GradgateError, match="is no function of a file under"):
        Budget(inner, base="a:b").compared(tmp_path)
    with pytest.raises(GradgateError, match="has to be a function at the top of a module"):
        Budget(inner, base="a:b").compared(Path(__file__).parent)


@pytest.mark.nightly
def test_a_whole_budget_against_a_revision(run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """A real comparison from a test file of a repository: one operation more is found, with its line."""
    monkeypatch.setenv("GRADGATE_CACHE", str(pytester.path / "cache"))
    pytester.makepyfile(test_mine=SPEED.format(extra=0, arguments="base_ref='main', budget=1"))
    commit(pytester.path)
    done = run(SPEED.format(extra=1, arguments="base_ref='main', budget=1"))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*op_count *fail *(+2)", "*where: test_mine.py:* in step() *torch.mm(x, x.T)"])


@pytest.mark.nightly
def test_a_whole_budget_against_another_function(run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Both sides come from this checkout."""
    monkeypatch.setenv("GRADGATE_CACHE", str(pytester.path / "cache"))
    done = run(SPEED.format(extra=2, arguments="base=old, budget=1, only=['op_count']"))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*op_count *fail *(+4)"])


def test_a_limit_names_the_lines_that_allocated(run):
    """The peak of 16,000 bytes, whose largest part was made by the wide one; not what came after it."""
    done = run(MEMORY.format(limit="'15 KiB'"))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "*OverBudget: tensors took 15.6 KiB (16,000 bytes) at once, allowed: 15 KiB; most of it was made at",
            "*11.7 KiB  test_mine.py:8 in test_memory()      wide = torch.zeros(3000)",
            "*3.91 KiB  test_mine.py:7 in test_memory()      kept = torch.zeros(1000)",
        ]
    )


def test_a_limit_passes_what_just_fits(run):
    """At tolerance 0."""
    run(MEMORY.format(limit=16_000)).assert_outcomes(passed=1)


def test_a_limit_lets_a_failure_through(run):
    """The test's own error is what is shown."""
    done = run(MEMORY.format(limit="'1 KiB'") + "    raise ValueError('mine')\n")
    done.stdout.fnmatch_lines(["FAILED*ValueError: mine"])


@pytest.mark.parametrize(
    ("size", "number"), [(10, 10), ("0 B", 0), ("1.5 KB", 1500), ("2GiB", 2**31), (" 24 MiB ", 24 * 2**20)]
)
def test_sizes_are_read(size: object, number: int):
    """A number is bytes, a text has a unit."""
    assert as_bytes(size) == number


@pytest.mark.parametrize("size", ["24", "MiB", "-1 B", "1 mib", -1, True, None, 1.5])
def test_sizes_that_are_none_are_refused(size: object):
    """With all units."""
    with pytest.raises(GradgateError, match=r"is no size; .* B, KB, MB, GB, KiB, MiB, GiB"):
        as_bytes(size)


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1.02e+03 B"), (1536, "1.5 KiB"), (2**31, "2 GiB")])
def test_sizes_are_written_in_three_digits(number: int, text: str):
    """In the largest unit that fits."""
    assert as_text(number) == text
