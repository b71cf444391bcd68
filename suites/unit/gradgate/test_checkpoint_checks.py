"""GG604 and GG605: each fault of saving or loading turns its check red and says why, the clean twin stays green."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from fixtures import checkpoint_faults, mini_trainer
from fixtures.checkpoint_faults import CHECKPOINT_FAULTS, SavingRun
from fixtures.pytest_fixtures import rest_at_night
from gradgate.checks import catalogue, gg605_checkpoint_unsafe
from gradgate.checks.isolation import isolated
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODES = ("GG604", "GG605")
TOLD = {
    "written-in-place": "killed after",
    "written-behind-a-removal": "and left no checkpoint that loads (FileNotFoundError",
    "written-without-a-word": "reported success, and what loads is the old state; allowed: to raise",
    "unchecked": "was loaded without an error",
    "loaded-as-code": "load() calls torch.load with weights_only=False, which executes what it reads",
    "unpickled": "load() calls pickle.loads, which executes what it reads",
    "half-loaded": "raised ValueError and had changed the run already",
}


def run_check(code: str, subject: Subject, seed: int = 0) -> Outcome:
    """The outcome of one check on the only stage, isolated as the runner does it."""
    with isolated(seed) as folder:
        context = Context(seed=seed, folder=folder)
        return catalogue.load_check(catalogue.rule(code)).function(subject, subject.stages[0], context)


def errors(outcome: Outcome) -> list[Finding]:
    return [finding for finding in outcome.findings if finding.severity == "error"]


@pytest.mark.parametrize(
    "name", rest_at_night(CHECKPOINT_FAULTS, day=1, of_each=lambda name: CHECKPOINT_FAULTS[name][0])
)
def test_checkpoint_fault_turns_its_check_red_and_no_other(name: str) -> None:
    """The check that a fault is meant for finds it and says why; GG602 and the other one stay green."""
    own, pieces = CHECKPOINT_FAULTS[name]
    subject = checkpoint_faults.subject(**pieces)

    found = errors(run_check(own, subject))

    assert any(TOLD[name] in finding.message for finding in found), [finding.message for finding in found]
    assert [code for code in (*CODES, "GG602") if code != own and errors(run_check(code, subject))] == []


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("seed", rest_at_night(range(3), day=1))
def test_clean_twin_passes(code: str, seed: int) -> None:
    """A checksum, weights alone, and a rename behind a whole file."""
    outcome = run_check(code, checkpoint_faults.subject(), seed)

    assert outcome.findings == ()
    assert outcome.not_applicable == ""


def test_gg605_names_the_line_that_executes() -> None:
    """The user's own line is the culprit, once."""
    (finding,) = errors(run_check("GG605", checkpoint_faults.subject(unpack=checkpoint_faults.unpacked_as_code)))

    assert finding.culprit is not None
    assert finding.culprit.function == "unpacked_as_code"
    assert "weights_only=False" in finding.culprit.source


def test_gg605_warns_of_a_changed_bit_where_the_trainer_has_no_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most have none; one that has it and does not compare it fails."""
    monkeypatch.setattr(gg605_checkpoint_unsafe, "files_of", lambda _: ())

    (finding,) = run_check("GG605", checkpoint_faults.subject(unpack=checkpoint_faults.unpacked_unchecked)).findings

    assert (finding.severity, "with a bit changed" in finding.message) == ("warning", True)


def test_gg605_leaves_out_files_that_a_load_does_not_read() -> None:
    """A log beside the checkpoint may be cut without harm."""

    class Logging(SavingRun):
        def save(self, path: Path) -> None:
            super().save(path)
            (path / "log.txt").write_text("saved\n", encoding="utf-8")

    def start(seed: int, **options: Any) -> Logging:
        return Logging(seed, options.get("dtype", mini_trainer.torch.float32), options["device"], {})

    outcome = run_check("GG605", Subject("logging", [Stage("value", start, objective="value")]))

    assert (outcome.findings, outcome.measured["files"]) == ((), 1)


def test_gg605_leaves_out_what_a_run_reads_where_it_starts() -> None:
    """A corpus of the trainer's own is no checkpoint."""

    class Reading(SavingRun):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            pickle.loads(pickle.dumps("the rows"))  # noqa: S301 - its own

    def start(seed: int, **options: Any) -> Reading:
        return Reading(seed, options.get("dtype", mini_trainer.torch.float32), options["device"], {})

    assert errors(run_check("GG605", Subject("reading", [Stage("value", start, objective="value")]))) == []


def test_gg604_does_not_apply_when_nothing_grows_beyond_a_limit() -> None:
    """A run that keeps its state elsewhere writes no file that could be cut."""
    kept: list[Any] = []

    class Remembering(SavingRun):
        def save(self, path: Path) -> None:
            kept.append(self.parts.saved(self))

        def load(self, path: Path) -> None:
            self.parts.restored(self, kept[-1])

    def start(seed: int, **options: Any) -> Remembering:
        return Remembering(seed, options.get("dtype", mini_trainer.torch.float32), options["device"], {})

    outcome = run_check("GG604", Subject("remembering", [Stage("value", start, objective="value")]))

    assert outcome.not_applicable == "no save wrote beyond a limit: nothing to look at"


@pytest.mark.parametrize("code", CODES)
def test_load_that_fails_on_a_whole_checkpoint_is_the_subjects_error(code: str) -> None:
    """What cannot be loaded undamaged says nothing about damage."""

    def refuse(content: bytes) -> Any:
        raise ValueError("never")

    (finding,) = errors(run_check(code, checkpoint_faults.subject(unpack=refuse)))

    assert finding.message == "load() raised ValueError: never"
