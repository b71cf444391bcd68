"""Checks are made again with switches flipped: what is wrong in some settings alone is found, with these settings."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest

from fixtures.invariance_faults import INVARIANCE_FAULTS
from fixtures.mini_faults import Fault
from fixtures.recorded_faults import RECORDED
from fixtures.switch_faults import SWITCHES, switched
from gradgate.checks.isolation import isolated
from gradgate.checks.raised import SubjectRaisedError
from gradgate.checks.runner import check_trainer
from gradgate.checks.switches import Again, again, pairwise
from gradgate.core.errors import SubjectError
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome, Result
from gradgate.subjects.contract import Context, Stage, Subject

COLUMNS = INVARIANCE_FAULTS["mean-over-columns"]
IN_PLACE = RECORDED["halved-in-place"]
WORDS = ("packed", "loss.kind", "cautious")


def verified(subject: Subject, code: str, **options: Any) -> Result:
    """The result of one check on the subject's only stage."""
    (result,) = check_trainer(subject, select=[code], **options).results
    return result


@pytest.mark.parametrize(
    ("fault", "when", "told"),
    [
        (COLUMNS, {"packed": True}, " with packed = True"),
        (COLUMNS, {"loss.kind": "third"}, " with loss.kind = 'third'"),
        (COLUMNS, {"packed": True, "cautious": True}, " with packed = True with cautious = True"),
        (IN_PLACE, {"loss.kind": "other"}, " with loss.kind = 'other'"),
    ],
)
def test_fault_behind_switches_is_found_with_the_fewest_that_show_it(
    fault: Fault, when: Mapping[str, Any], told: str
) -> None:
    """Once, whichever of the other switches are flipped beside them."""
    result = verified(switched(fault, when), fault.code)

    (finding,) = result.findings
    assert (result.status, finding.severity) == ("failed", "error")
    assert finding.message.endswith(told)
    assert finding.detail["settings"] == {key: repr(value) for key, value in when.items()}


@pytest.mark.parametrize("code", [COLUMNS.code, IN_PLACE.code, "GG203", "GG601"])
def test_switches_without_a_fault_pass(code: str) -> None:
    """The clean twin: no setting raises anything."""
    result = verified(switched(COLUMNS, {"packed": "never"}), code)

    assert (result.status, result.findings) == ("passed", ())


def test_what_the_stage_shows_as_it_is_is_told_once() -> None:
    """In whatever settings it shows as well."""
    result = verified(switched(COLUMNS, {}), COLUMNS.code)

    (finding,) = result.findings
    assert "settings" not in finding.detail


def test_another_fault_behind_a_switch_is_told_beside_the_first() -> None:
    """A trainer with one fault is not free of others."""

    def check(_: Subject, stage: Stage, context: Context) -> Outcome:
        stage.start(context.seed)
        names = ["always"] + (["packed"] if asked[-1].get("packed") else [])
        return Outcome(tuple(Finding("GG409", "causality", name) for name in names))

    asked: list[Any] = []
    stage = switched(COLUMNS, {}, asked=asked).stages[0]
    plain = Outcome((Finding("GG409", "causality", "always"),))
    found = again(check, Again(), Subject("s", [stage]), stage, Context(), plain, 60.0).findings

    assert [each.message for each in found] == ["always", "packed with packed = True"]


@pytest.mark.parametrize(
    ("values", "flipped"),
    [((0.0, 0.1), [{"key": 0.1}]), ((100, 0), [{"key": 0}]), ((0.1, 0.05), []), ((4, 2), [])],
)
def test_a_number_is_a_switch_where_one_of_its_values_is_none(values: Any, flipped: list[Any]) -> None:
    """A term without its factor, and what comes in over steps, there at once."""
    stage = switched(COLUMNS, {}).stages[0]
    assert settings_of(Stage("value", stage.start, options={"key": values})) == flipped


def test_switches_can_be_left_alone() -> None:
    """For planted faults, which are to be seen in the trainer as it is configured."""
    result = verified(switched(COLUMNS, {"packed": True}), COLUMNS.code, switches=False)

    assert result.status == "passed"


def test_every_two_values_of_two_switches_come_together() -> None:
    """All pairs of values in some settings, other numbers and an evaluation's batches left alone."""
    rows = settings_of(switched(COLUMNS, {}).stages[0])

    pairs = {pair for row in [{}, *rows] for pair in combinations(valued(row).items(), 2)}
    wanted = {
        ((one, first), (other, second))
        for one, other in combinations(WORDS, 2)
        for first in SWITCHES[one]
        for second in SWITCHES[other]
    }
    assert pairs == wanted
    assert len(rows) <= 7


def test_values_that_do_not_start_are_left_out_and_the_others_stay() -> None:
    """Alone, or beside another one."""
    alone = settings_of(switched(COLUMNS, {}, refuses={"packed": True}).stages[0])
    beside = settings_of(switched(COLUMNS, {}, refuses={"packed": True, "loss.kind": "third"}).stages[0])

    assert all("packed" not in row for row in alone)
    assert {row.get("loss.kind") for row in alone} == {None, "other", "third"}
    assert all(not {("packed", True), ("loss.kind", "third")} <= row.items() for row in beside)
    assert {"packed", "loss.kind", "cautious"} == {key for row in beside for key in row}


def test_one_switch_alone_is_flipped_to_each_of_its_values() -> None:
    """There are no pairs then."""
    stage = switched(COLUMNS, {}).stages[0]
    only = Stage("value", stage.start, options={"loss.kind": SWITCHES["loss.kind"]})

    assert settings_of(only) == [{"loss.kind": "other"}, {"loss.kind": "third"}]


def test_nothing_is_flipped_when_the_time_is_over() -> None:
    """A check's limit is for all that it does."""

    def never(*_: Any) -> Outcome:
        raise AssertionError

    stage = switched(COLUMNS, {}).stages[0]
    plain = Outcome()

    assert again(never, Again(), Subject("s", [stage]), stage, Context(), plain, 0.0) is plain


@pytest.mark.parametrize(("profile", "quick", "asked"), [("quick", 0, 0), ("quick", 1, 1), ("pr", 0, 5), ("pr", 1, 5)])
def test_check_that_takes_long_is_made_again_in_longer_profiles(profile: str, quick: int, asked: int) -> None:
    """A resume in every setting is minutes: one of them, or none, is looked at in the quick profile."""
    made: list[Stage] = []

    def check(_: Subject, stage: Stage, __: Context) -> Outcome:
        made.append(stage)
        return Outcome()

    stage = switched(COLUMNS, {}).stages[0]
    context = Context(profile=profile)  # type: ignore[arg-type]
    again(check, Again(quick=quick), Subject("s", [stage]), stage, context, Outcome(), 60.0)

    assert len(made) == asked


def test_edges_are_told_as_warnings_where_no_key_opens_one() -> None:
    """What is declared of edges is declared of the stage as it is configured."""

    def check(_: Subject, stage: Stage, context: Context) -> Outcome:
        stage.start(context.seed)
        return Outcome((Finding("GG203", "forbidden-edge", f"{len(asked)}"),)) if asked[-1] else Outcome()

    asked: list[Any] = []
    start = switched(COLUMNS, {}, asked=asked).stages[0].start
    opened = Stage("value", start, options={"detach_values": (True, False)})
    other = Stage("value", start, options={"packed": (False, True)})
    how = Again("warning", edges=True)
    found = [again(check, how, Subject("s", [s]), s, Context(), Outcome(), 60.0).findings for s in (opened, other)]

    assert [[each.severity for each in findings] for findings in found] == [[], ["warning"]]


@pytest.mark.parametrize("error", [SubjectError("no such term"), SubjectRaisedError("step 1", ValueError("no"))])
def test_what_cannot_be_asked_in_some_settings_is_left(error: Exception) -> None:
    """A term that the adapter declares may not be there with another weighting."""

    def check(*_: Any) -> Outcome:
        raise error

    stage = switched(COLUMNS, {}).stages[0]

    assert again(check, Again(), Subject("s", [stage]), stage, Context(), Outcome(), 60.0) == Outcome()


def settings_of(stage: Stage) -> list[Mapping[str, Any]]:
    """The settings that a stage is looked at in."""
    with isolated(0):
        return [flipped.settings for flipped in pairwise(stage, Context())]


def valued(row: Mapping[str, Any]) -> dict[str, Any]:
    """All switches with their values."""
    return {key: row.get(key, SWITCHES[key][0]) for key in WORDS}
