"""Change points: a step in the history of a machine is found and named, noise alone is not taken for one."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from statistics import NormalDist
from typing import Any

import pytest

from fixtures import histories as synthetic
from gradgate.core.errors import GradgateError
from gradgate.gates.changes import FEWEST, MOST, Change, _autocorrelation, _normal_scores, changes, levels

needs_ruptures = pytest.mark.skipif(find_spec("ruptures") is None, reason="pip install 'gradgate[trend]'")


def entries(name: str, values: list[Any], **more: Any) -> list[dict[str, Any]]:
    """A history of one number, a commit an entry."""
    return [
        {"time": f"2026-01-01T{at:04d}", "subject": "mine", "commit": f"{at:040x}", "numbers": {name: value}} | more
        for at, value in enumerate(values)
    ]


@needs_ruptures
@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "spikes"])
def test_changes_find_a_step_of_five_percent(kind: str):
    """20 checks behind a slowdown of 5 %, in noise of 1 %: found in each of 20 histories, near its place."""
    deviation = 0.005 if kind == "spikes" else 0.01
    assert synthetic.found(kind, 60, 20, deviation, 20) >= 19


@needs_ruptures
@pytest.mark.parametrize("kind", synthetic.NOISE)
def test_changes_see_none_in_noise_alone(kind: str):
    """At most 1 of 60 histories, also where each night resembles the night before."""
    assert synthetic.false_alarms(kind, 60, 60) <= 1


@needs_ruptures
@pytest.mark.nightly
@pytest.mark.parametrize("kind", synthetic.NOISE)
def test_changes_raise_few_false_alarms(kind: str):
    """Below 1 % where the noise has no memory, below 3 % where it has."""
    alarms = sum(synthetic.false_alarms(kind, length, 250) for length in synthetic.LENGTHS)
    assert alarms < 1000 * (0.03 if "following" in kind else 0.01)


@needs_ruptures
def test_change_names_commits_medians_and_entries():
    """What a reader needs to bisect: between which commits, from what to what, on how many checks it rests."""
    values = synthetic.history("normal", 1, 60, 0.01, since=20)
    (change,) = changes(entries("main/step_ms", values))
    assert (change.number, change.last, change.commit) == ("main/step_ms", f"{39:040x}", f"{40:040x}")
    assert change.entries == (40, 20)
    assert float(change.after) / float(change.before) == pytest.approx(1.05, abs=0.01)
    assert "(+" in str(change) and "40 entries before, 20 since" in str(change)


def test_change_of_a_counter_is_exact():
    """One operation more is a change at once, and so is another signature; no library is needed."""
    zeros = "0" * 10  # of the commits
    history = entries("main/op_count", [412, 412, 413]) + entries("main/op_signature", ["a", "b"], commit="")
    assert [str(change) for change in changes(history)] == [
        "mine main/op_signature: a -> b at 2026-01-01T0001 (commits not recorded; 1 entries before, 1 since)",
        f"mine main/op_count: 412 -> 413 (+0.2%) at 2026-01-01T0002 ({zeros}..{zeros}; 2 entries before, 1 since)",
    ]  # fmt: skip


def test_changes_say_nothing_of_few_entries_or_one_value():
    """Too few to tell, or all the same."""
    assert levels([1.0, 9.0] * (FEWEST // 2)) == []
    assert levels([1.0] * 40) == []


def test_changes_leave_out_what_moves_with_the_stored_figure():
    """A baseline that is recorded anew changes the ratio to it, not the code."""
    assert changes(entries("main/cpu_time_ratio", [1.0, 1.2])) == []


def test_changes_ask_for_ruptures_by_name(monkeypatch: pytest.MonkeyPatch):
    """One line that says what to install."""
    monkeypatch.setitem(sys.modules, "ruptures", None)
    with pytest.raises(GradgateError, match=r"gradgate\[trend\]"):
        levels([float(at % 7) for at in range(30)])


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [(2.0, 3.0, " (+50.0%)"), (0, 3, ""), ("a", 3, ""), (3, "a", ""), ("a", "b", ""), (-2.0, -1.0, " (-50.0%)")],
)
def test_change_is_a_share_of_numbers_alone(before: float | str, after: float | str, percent: str):
    """Nothing is a share of 0 or of a signature."""
    change = Change("s", "n", "t", "b" * 40, "a" * 40, before, after, (1, 2))
    assert str(change).startswith(f"s n: {before if isinstance(before, str) else format(before, 'g')} -> ")
    assert f"{percent} at t (aaaaaaaaaa..bbbbbbbbbb; 1 entries before, 2 since)" in str(change)
    assert ("%" in str(change)) is bool(percent)


@pytest.mark.parametrize(("last", "commit"), [("", "b"), ("a", ""), ("", "")])
def test_change_names_both_commits_or_none(last: str, commit: str):
    """Half a span cannot be bisected."""
    assert "(commits not recorded;" in str(Change("s", "n", "t", commit, last, 1, 2, (1, 1)))


def test_change_of_entries_without_commits_has_none():
    """An entry of an older version has no such key."""
    history = [{"time": f"{at}", "subject": "mine", "numbers": {"main/op_count": at}} for at in (1, 2)]
    (change,) = changes(history)
    assert (change.last, change.commit, change.time) == ("", "", "2")


def test_changes_are_of_the_latest_entries_and_in_order_of_time():
    """What lies further back than `MOST` entries is history."""
    values = [1] + [2] * MOST
    assert changes(entries("main/op_count", values)) == []
    assert len(changes(entries("main/op_count", values[:-1]))) == 1
    both = entries("main/b", ["x", "x", "y"]) + entries("main/a", ["x", "y", "y"])
    assert [(one.number, one.time[-1]) for one in changes(both)] == [("main/a", "1"), ("main/b", "2")]


def test_change_between_whole_numbers_and_others_is_exact():
    """A level of counts is their median, another level its last value."""
    (first, second) = changes(entries("main/op_count", [1_000] * 3 + [2_000] * 3 + ["none"]))
    assert (first.before, first.after, first.entries) == (1000, 2000, (3, 3))
    assert "1,000 -> 2,000" in str(first)
    assert (second.before, second.after, second.entries) == (2000, "none", (3, 1))


def test_normal_scores_are_quantiles_of_ranks():
    """Equal values share the mean of their ranks; the ends stay finite."""
    expected = [NormalDist().inv_cdf(rank / 5) for rank in (3.5, 1, 3.5, 2)]
    assert _normal_scores([30.0, 1.0, 30.0, 20.0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "starts", "share"),
    [
        ([1.0, 1.0, 3.0, 3.0], [], 0.25),
        ([1.0, 1.0, 3.0, 3.0], [2], 0.0),
        ([0.0, 2.0, 0.0, 2.0], [], 0.0),
        ([1.0, 1.0, 3.0, 3.0, 9.0, 8.0, 7.0], [4], 1 / 3),
    ],
)
def test_autocorrelation_is_of_neighbours_within_levels(scores: list[float], starts: list[int], share: float):
    """Each level's mean is taken away first; neighbours that alternate count as none."""
    assert _autocorrelation(scores, starts) == pytest.approx(share)


@needs_ruptures
def test_levels_begin_where_a_number_moves():
    """Up and down again, in a ripple that repeats."""
    values = [float(at % 3) / 100 + (1.0 if 20 <= at < 40 else 0.0) for at in range(60)]
    assert levels(values) == [20, 40]
    assert changes(entries("main/step_ms", values))[0].entries == (20, 20)
