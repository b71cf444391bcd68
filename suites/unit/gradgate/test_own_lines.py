"""Lines that checks name from a trace of the failing run: each bad subject's line is the one that is wrong."""

from __future__ import annotations

import linecache
from typing import Any

import pytest

from fixtures import checkpoint_faults, loop_faults
from fixtures.checkpoint_faults import CHECKPOINT_FAULTS
from fixtures.loop_faults import LOOP_FAULTS
from fixtures.mini_faults import FAULTS
from gradgate.checks import catalogue
from gradgate.checks.first_fault import first_fault_only
from gradgate.checks.isolation import isolated
from gradgate.checks.naming import unnamed
from gradgate.checks.own_lines import OwnLines, argument_at, keyword_at, named, statement_at
from gradgate.core.finding import Finding, Location
from gradgate.subjects.contract import Context, Stage, Subject

HERE = __file__
# Bad subject -> the function and a piece of the line that its check names.
OF_THE_LOOP = {
    "never-stepped": ("step", "rate = "),  # right behind optimizer.step()
    "stepped-twice": ("twice", "scheduler.step()"),
    "warm-up-from-zero": ("share_from_zero", "return"),
    "rises-again": ("share_that_rises_again", "return"),
    "decay-for-all": ("built_with_decay_for_all", "AdamW"),
    "wrong-way-round": ("<lambda>", "is_better="),
    "equal-is-better": ("<lambda>", "is_better="),
    "nan-is-the-best": ("<lambda>", "is_better="),
    "never-stops": ("loop", "worse >= patience"),
    "one-step-beyond": ("loop", "while"),
    "evaluates-every-step": ("loop", "if step % "),
    "evaluates-at-the-end": ("loop", "if step % "),
    "with-replacement": ("order_with_replacement", "randint"),
}
OF_CHECKPOINTS = {
    "written-in-place": ("written_in_place", "write_bytes"),
    "written-behind-a-removal": ("written_behind_a_removal", "unlink"),
    "unchecked": ("unpacked_unchecked", "torch.load"),
}
OF_THE_MINI = {
    "never-zeroed": ("step", "for micro in window"),
    "value-head-not-zeroed": ("zeroed_but_for_the_value_head", "zero_grad"),
    "zeroed-every-second-step": ("step", "zero_grad"),
    "no-guard": ("advance", "step()"),
    "guard-after-update": ("guard_after_update", "raise"),
    "optimizer-not-saved": ("saved", "optimizer"),
    "scheduler-not-saved": ("<dictcomp>", "clean.saved"),
    "saved-in-eval-mode": ("saved_in_eval_mode", "eval()"),
}


def culprit(code: str, subject: Subject, stage: Stage) -> Location:
    """The line that a check names first."""
    with isolated(0) as folder:
        context = Context(folder=folder)
        outcome = catalogue.load_check(catalogue.rule(code)).function(subject, stage, context)
    return next(finding.culprit for finding in outcome.findings if finding.culprit)


def is_at(place: Location, wanted: tuple[str, str]) -> bool:
    """Whether a line is in the function, and has the text; a comprehension may be a function of its own."""
    function, text = wanted
    return (place.function == function or function == "<dictcomp>") and text in place.source


@pytest.mark.parametrize("name", OF_THE_LOOP)
def test_loop_fault_is_named_at_its_line(name: str) -> None:
    """A rate, a decision of the loop, an order."""
    code, pieces, _ = LOOP_FAULTS[name]
    subject = loop_faults.subject(pieces)

    assert is_at(culprit(code, subject, subject.stages[0]), OF_THE_LOOP[name])


@pytest.mark.parametrize("name", OF_CHECKPOINTS)
def test_checkpoint_fault_is_named_at_its_line(name: str) -> None:
    """The line that writes into the old file's place, or reads what nobody has checked."""
    code, pieces = CHECKPOINT_FAULTS[name]
    subject = checkpoint_faults.subject(**pieces)

    assert is_at(culprit(code, subject, subject.stages[0]), OF_CHECKPOINTS[name])


@pytest.mark.parametrize("name", OF_THE_MINI)
def test_fault_of_the_mini_trainer_is_named_at_its_line(name: str) -> None:
    """Gradients, guards, what is saved, modes and generators."""
    fault = FAULTS[name]
    subject = fault.subject()
    stage = next(stage for stage in subject.stages if stage.name == fault.stage)

    assert is_at(culprit(fault.code, subject, stage), OF_THE_MINI[name])


def changed(box: dict[str, int]) -> None:
    helped(box)
    box["other"] = 1
    box["at"] = 2


def helped(box: dict[str, int]) -> None:
    box["helped"] = 1


class Watching(OwnLines):
    """Lines behind which a value is another one."""

    def __init__(self, box: dict[str, int], key: str) -> None:
        super().__init__(None)
        self.box, self.key = box, key
        self.found: list[str] = []

    def behind(self, line: Any) -> None:
        if self.key in self.box and not self.found:
            self.found = [linecache.getline(code.co_filename, number).strip() for code, number in self.way()]


@pytest.mark.parametrize(
    ("key", "way"),
    [("at", ['box["at"] = 2']), ("helped", ["helped(box)", 'box["helped"] = 1'])],
)
def test_trace_gives_the_lines_that_lead_to_a_change(key: str, way: list[str]) -> None:
    """Outermost first; a line that calls another is only on the way."""
    trace = Watching({}, key)

    with trace.on():
        changed(trace.box)

    assert trace.found[-len(way) :] == way


def finding() -> Finding:
    return Finding("GG607", "schedule-oracle", "off")


def test_search_that_raises_leaves_the_finding_as_it_is() -> None:
    """It runs the trainer's own code, which may raise anything."""

    def search() -> Location:
        raise ValueError("the trainer's")

    assert named(finding(), search, 0) == finding()


def test_no_line_is_looked_for_while_changes_are_tried() -> None:
    """A trial asks whether a check passes, not where it fails."""
    place = Location(HERE, 1)

    with unnamed():
        tried = named(finding(), lambda: place, 0)
    with first_fault_only():
        first = named(finding(), lambda: place, 0)

    assert (tried.culprit, first.culprit) == (None, None)
    assert named(finding(), lambda: place, 0).culprit == place


def long_call() -> None:
    helped(
        box={
            "a": 1,
        },
    )


def test_line_of_what_a_long_call_gives_is_that_of_the_value() -> None:
    """By name, of a call over several lines; none where it gives nothing so."""
    caller = (long_call.__code__, long_call.__code__.co_firstlineno + 1)

    assert keyword_at(caller, "box") == argument_at(caller, helped.__code__, "box") == (caller[0], caller[1] + 1)
    assert keyword_at(caller, "other") is None


def test_statement_of_code_without_source_is_none() -> None:
    """Code that was compiled from a string has no file."""
    assert statement_at((compile("x = 1", "<string>", "exec"), 1)) is None
