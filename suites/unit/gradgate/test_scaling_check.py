"""GG703: cost that grows faster than declared is named with its line; the arithmetic behind it."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures import scaling_faults
from fixtures.check_runs import errors, run_check
from fixtures.pytest_fixtures import rest_at_night
from fixtures.scaling_faults import LINES, at_once, doubles_its_reach
from gradgate.checks import gg703_scaling_exponent as rule
from gradgate.core.errors import SubjectError
from gradgate.gates.scaling import excess, grows_faster, growth_exponent, key_of_excess, time_growth
from gradgate.subjects.contract import Context, Subject


def judge(subject: Subject, profile: Any = "quick") -> Any:
    return rule.check(subject, subject.stages[0], Context(profile=profile, folder=Path()))


@pytest.mark.parametrize("loss", rest_at_night(LINES, day=3))
def test_scaling_names_cost_and_line(loss: Callable[..., Any]):
    """A loop, a read a token and a matrix of all pairs, at the line that does it, with the exponents and the counts."""
    costs, source, told = LINES[loss]
    subject = scaling_faults.subject(loss)
    findings = run_check("GG703", subject, subject.stages[0]).findings
    assert [finding.detail["cost"] for finding in findings] == costs
    assert findings[0].culprit is not None
    assert (findings[0].culprit.source, findings[0].message) == (source, told)


@pytest.mark.parametrize("loss", [at_once, doubles_its_reach])
def test_scaling_passes_what_is_as_declared(loss: Callable[..., Any]):
    """One operation, and a scan that adds as many operations at each doubling."""
    outcome = judge(scaling_faults.subject(loss))
    assert (errors(outcome), outcome.measured["op_count in S"]) == ([], 0.0)
    assert outcome.measured["flops in S"] == 1.0


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> Any:
    """The check on a clock that gives a step of each size these seconds, in the profile that times."""
    clock = dict(zip((8, 16, 32), seconds, strict=True))
    sizes: dict[Any, int] = {}

    started = rule._started

    def noted(axis: str, scaling: Any, size: int, device: str) -> Any:
        step = started(axis, scaling, size, device)
        sizes[step] = size
        return step

    monkeypatch.setattr(rule, "_started", noted)
    monkeypatch.setattr(rule, "_seconds", lambda step, number: clock[sizes[step]])
    return judge(scaling_faults.subject(at_once, exponents={"cpu_time": 1}), "pr")


@pytest.mark.nightly
def test_scaling_times_in_the_longer_profiles_only(monkeypatch: pytest.MonkeyPatch):
    """A quick run counts; without a counter there is nothing to say."""
    monkeypatch.setattr(rule, "_seconds", None)
    assert judge(scaling_faults.subject(at_once, exponents={"cpu_time": 1})).measured == {}


@pytest.mark.nightly
def test_scaling_fails_a_quadratic_time(monkeypatch: pytest.MonkeyPatch):
    """Beyond the declared power and the slack."""
    outcome = timed(monkeypatch, 0.002, 0.005, 0.017)
    (message,) = errors(outcome)
    assert message.startswith("`cpu_time` grows with about S^2, declared: S^1; the excess is +21%")


@pytest.mark.nightly
def test_scaling_passes_a_linear_time(monkeypatch: pytest.MonkeyPatch):
    """With a constant before it."""
    outcome = timed(monkeypatch, 0.002, 0.003, 0.005)
    assert (errors(outcome), outcome.inconclusive) == ([], "")
    assert outcome.measured == {"cpu_time in S": 1.0}


@pytest.mark.nightly
def test_scaling_is_inconclusive_when_time_is_noisy(monkeypatch: pytest.MonkeyPatch):
    """Never blamed on the code, never green in silence."""
    rng = random.Random(0)
    wild = [(rng.uniform(0.5, 1.5), rng.uniform(1, 3), rng.uniform(3, 7)) for _ in range(60)]
    monkeypatch.setattr(rule, "_rounds", lambda steps: iter(wild))
    outcome = judge(scaling_faults.subject(at_once, exponents={"cpu_time": 1}), "pr")
    assert (outcome.findings, "too noisy" in outcome.inconclusive) == ((), True)


def test_scaling_times_real_steps():
    """Rounds of three positive times, in the order of the sizes."""
    subject = scaling_faults.subject(at_once)
    scaling = (subject.stages[0].scaling or {})["S"]
    steps = {size: rule._started("S", scaling, size, "cpu") for size in rule.sizes(scaling)}
    assert min(next(rule._rounds(steps))) > 0


def test_scaling_refuses_an_unknown_cost():
    """With the nearest one."""
    with pytest.raises(SubjectError, match=r"scaling\['S'\]: no cost 'op_counts'; did you mean 'op_count'"):
        judge(scaling_faults.subject(at_once, exponents={"op_counts": 0}))


@pytest.mark.parametrize("smallest", [0, 3, 2**20])
def test_scaling_refuses_a_size_that_is_no_power_of_two(smallest: int):
    """Doublings of other sizes give a scan's rounds an uneven growth."""
    with pytest.raises(SubjectError, match=f"smallest is {smallest}, expected a power of two"):
        judge(scaling_faults.subject(at_once, smallest))


def test_scaling_reports_a_size_that_raises():
    """A finding with the size, not a broken harness."""

    def breaks(hidden: Any) -> Any:
        raise ValueError("too long")

    subject = scaling_faults.subject(breaks)
    assert errors(run_check("GG703", subject, subject.stages[0])) == ["a step at S = 8 raised ValueError: too long"]


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (at_once, []),
        (doubles_its_reach, []),
        (scaling_faults.loops, []),  # over positions: a scan is written so
        (
            scaling_faults.reads,
            [("error", "`host_syncs` grows with S^1: 6, 10, 18 at S + 0, S + 4, S + 12; allowed: S^0")],
        ),
        (
            scaling_faults.reads_rows,
            [
                ("error", "`host_syncs` grows with B^1: 2, 6, 14 at B + 0, B + 4, B + 12; allowed: B^0"),
                ("warning", "`op_count` grows with B^1: "),
            ],
        ),
        (scaling_faults.loops_over_rows, [("warning", "`op_count` grows with B^1: ")]),
    ],
)
def test_undeclared_reads_of_the_device_may_grow_with_nothing(loss: Callable[..., Any], found: list[Any]):
    """By padding and by rows that come twice; a loop over rows is a warning."""
    subject = scaling_faults.undeclared(loss)
    findings = run_check("GG703", subject, subject.stages[0]).findings
    assert [finding.severity for finding in findings] == [severity for severity, _ in found]
    assert all(each.message.startswith(told) for each, (_, told) in zip(findings, found, strict=True))
    assert all(finding.culprit and finding.culprit.source in inspect.getsource(loss) for finding in findings)


def test_an_undeclared_axis_that_cannot_grow_is_left_out():
    """A table of positions that is too short is no fault of the padded batch; rows are looked at."""
    subject = scaling_faults.undeclared(at_once, longest=8)
    outcome = run_check("GG703", subject, subject.stages[0])
    assert (outcome.findings, set(outcome.measured)) == ((), {"host_syncs in B", "op_count in B"})


def test_scaling_without_axis_padding_or_rows_does_not_apply():
    """Which lines would enable it."""
    stage = scaling_faults.undeclared(at_once).stages[0]
    bare = Subject(
        "bare", [replace(stage, start=lambda seed, **_: scaling_faults.LongRun(at_once, torch.ones(1, 2, 4)))]
    )
    reason = run_check("GG703", bare, bare.stages[0]).not_applicable
    assert "scaling=" in reason and "Run.pad" in reason and "Run.select_rows" in reason


@given(st.floats(0, 1e3), st.floats(0.1, 1e3), st.floats(0.1, 3))
def test_growth_exponent_is_the_power_whatever_the_constant(constant: float, factor: float, power: float):
    """Of a + b n^p."""
    one, two, four = (constant + factor * n**power for n in (1, 2, 4))
    assert growth_exponent((one, two, four)) == pytest.approx(power, abs=1e-3)


def test_growth_exponent_of_what_does_not_grow_is_0():
    """And of what only grows in the end is infinite."""
    assert [growth_exponent(costs) for costs in ((3, 3, 3), (5, 4, 3), (1, 2, 2), (1, 1, 2))] == [0, 0, 0, math.inf]


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(0, 1000))
def test_grows_faster_lets_terms_of_lower_order_pass(constant: int, linear: int, quadratic: int):
    """A polynomial of the declared degree passes whatever its coefficients, of one more fails from 10 % on."""
    one, two, four = (constant + linear * n + quadratic * n * n for n in (1, 2, 4))
    assert not grows_faster((one, two, four), 2)
    if quadratic == 0 or quadratic > 0.1 * linear:
        assert grows_faster((one, two, four), 1) == (quadratic > 0)


def test_key_of_excess_is_the_line_beyond_the_declared_growth():
    """Not the largest one; none where all are as declared."""
    shares = [{"linear": 100 * n, "square": n * n} for n in (1, 2, 4)]
    assert key_of_excess(shares, 1) == "square"
    assert key_of_excess(shares, 2) is None
    assert excess((1, 2, 4), 1) == 0


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 2))
def test_time_growth_does_not_blame_a_noisy_power_as_declared(seed: int, constant: float):
    """12 rounds of a + b n with 5 % of noise never fail."""
    rng = random.Random(seed)
    rounds = [tuple((constant + n) * rng.gauss(1, 0.05) for n in (1, 2, 4)) for _ in range(12)]
    assert time_growth(rounds, 1).verdict != "fail"


def test_time_growth_is_open_with_few_rounds():
    """Six signed ranks bear no 1 %."""
    assert time_growth([(1.0, 4.0, 16.0)] * 6, 1).verdict is None
