"""GG494 and GG670 to GG687: the whole program, launched, stopped and resumed; each fault turns its own check red."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fixtures import mini_program
from fixtures.check_runs import run_check
from fixtures.pytest_fixtures import rest_at_night
from gradgate.checks import catalogue, whole_runs
from gradgate.checks.gg683_log_means_other_steps import _is_one
from gradgate.checks.held_values import values_in
from gradgate.checks.launches import launch
from gradgate.checks.left_behind import is_of_the_clock, records_of
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context
from gradgate.subjects.program import Program

CODES = ("GG494", *(f"GG{number}" for number in range(670, 688)))
OWN = {
    "unseeded": "GG670",
    "no moments": "GG671",
    "no generator": "GG671",
    "data anew": "GG671",
    "step twice": "GG671",
    "step left out": "GG671",
    "no noise": "GG671",
    "anew": "GG671",
    "needs a checkpoint": "GG671",
    "no evaluations": "GG671",
    "no sum": "GG672",
    "log anew": "GG672",
    "trains again": "GG673",
    "leftovers": "GG674",
    "draws": "GG675",
    "eval mode": "GG675",
    "old rate": "GG676",
    "no batches": "GG677",
    "for ever": "GG677",
    "nan": "GG677",
    "one at least": "GG677",
    "one short": "GG678",
    "no patience": "GG679",
    "mean of means": "GG494",
    "keeps all": "GG680",
    "clips once": "GG681",
    "clips to nothing": "GG681",
    "largest": "GG682",
    "refers": "GG682",
    "sum goes on": "GG683",
    "any key": "GG684",
    "any text": "GG684",
    "rate by parts": "GG685",
    "no rows seen": "GG686",
    "released alone": "GG687",
}
BESIDE = {  # true there, too
    "trains again": ["GG671"],
    "released alone": ["GG671"],  # gradients that nobody clears count in the clipped norm, and no checkpoint has them
    "eval mode": ["GG671"],
    **{fault: ["GG686"] for fault in ("step twice", "step left out", "no evaluations", "no sum")},
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that makes no update hangs after a second, and not after ten."""
    monkeypatch.setattr(whole_runs, "LEAST", 1.0)


def checked(code: str, *faults: str, **changes: Any) -> Outcome:
    subject = mini_program.subject(*faults, **changes)
    return run_check(code, subject, subject.stages[0], profile="pr")


@pytest.mark.parametrize("code", CODES)
def test_program_that_does_as_it_should_passes(code: str) -> None:
    """Each check makes launches of it, and finds nothing."""
    outcome = checked(code)
    assert outcome.findings == () and not outcome.not_applicable and not outcome.inconclusive


@pytest.mark.parametrize("fault", OWN)
def test_fault_turns_its_own_check_red(fault: str) -> None:
    """With one finding, which says what was done and what came of it."""
    (finding, *_) = checked(OWN[fault], fault).findings
    assert finding.message and finding.fix


@pytest.mark.parametrize("fault", rest_at_night(OWN, day=2))
def test_fault_turns_no_other_check_red(fault: str) -> None:
    """But where it is seen there, too."""
    others = [code for code in CODES if code != OWN[fault]]
    assert [code for code in others if checked(code, fault).findings] == BESIDE.get(fault, [])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no moments", "the first update finds other moments"),
        ("no generator", "the state of torch's generator is another one"),
        (
            "data anew",
            "other gradients of the same parameters and random numbers: other rows, those of update 1, and not",
        ),
        ("no generator and data anew", "other rows, too: those of update 1, and not of update "),
        ("step twice", "goes on from update 5 and makes 18 updates to its end instead of 17"),
        ("step left out", "goes on from update 5 and makes 16 updates to its end instead of 17"),
        ("anew", "begins anew: a checkpoint had been written behind update 5"),
        ("needs a checkpoint", "raised: FileNotFoundError: [Errno 2] No such file"),
        ("other weights", "other parameters than any update of a run without the stop"),
        ("other rate", "other learning rates: 0.025, and 0.05 without the stop"),
    ],
)
def test_finding_of_a_stop_says_where_and_what_is_otherwise(fault: str, said: str) -> None:
    """By the numbers of updates, or by what the first update behind the resume finds."""
    messages = [finding.message for finding in checked("GG671", *fault.split(" and ")).findings]
    assert any(said in message for message in messages), messages
    assert all(message.startswith("stopped behind update ") for message in messages)


def test_program_may_refuse_a_resume_without_a_checkpoint() -> None:
    """With an error that it raises itself, which tells its user what is missing."""
    assert checked("GG671", "asks for a checkpoint").findings == ()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no rows seen", "`_Stage.rows_seen` is 0, and 20 without the stop"),
        ("no evaluations", "`_Stage.evaluations` is 0, and 2 without the stop"),
        ("other weights", "`_Stage.model.state_dict()['0.weight']` is another one than without the stop"),
    ],
)
def test_finding_of_lost_state_names_it(fault: str, said: str) -> None:
    """With both numbers, where it is one; the last loss and a history, which no checkpoint has either, are no state."""
    (finding,) = checked("GG686", fault).findings
    assert said in finding.message


def test_norm_of_nothing_is_no_clipping_or_is_refused() -> None:
    """Where it is among the declared values: a norm that takes every gradient."""
    (finding,) = checked("GG681", "clips to nothing").findings
    assert "8 of 8 parameters never have a gradient with grad_clip = 0.0" in finding.message
    without = {**mini_program.OPTIONS, "grad_clip": (1.0, 0.1)}
    assert checked("GG681", "clips to nothing", options=without).findings == ()


def test_released_part_is_named_unless_the_optimizer_has_it() -> None:
    """One that is made of frozen parameters, too, steps them once they are released."""
    first, second = checked("GG687", "released alone").findings
    assert (
        "`0.weight` and 1 more of Sequential were frozen" in first.message and "released by update 4" in first.message
    )
    assert "released by update 15" in second.message
    assert checked("GG687", "released").findings == ()


@pytest.mark.parametrize(("said", "is_mean"), [(0.00268, True), (0.0026796, True), (0.0026812, False), (0.0027, True)])
def test_number_of_a_log_is_told_by_its_decimals(said: float, is_mean: bool) -> None:
    """One that is rounded for the reader is no other mean."""
    assert _is_one(said, (0.00267967,)) is is_mean


def test_buffers_that_no_checkpoint_has_are_among_the_values() -> None:
    """Registered with `persistent=False`, at any depth."""
    inner = nn.Linear(1, 1)
    inner.register_buffer("mean", torch.zeros(1), persistent=False)
    values = dict(values_in("model", nn.Sequential(inner), {}))
    assert values["model.0.mean"] is inner.mean and "model.state_dict()['0.weight']" in values


def test_state_of_a_program_without_a_module_is_compared_as_well() -> None:
    """What it holds is taken down as its first backward begins."""
    assert checked("GG686", "functional").findings == ()
    (finding,) = checked("GG686", "functional", "no rows seen").findings
    assert "`_Stage.rows_seen` is 0, and 20 without the stop" in finding.message


@pytest.mark.parametrize(
    ("fault", "said"),
    [("raises", "it raised: RuntimeError: out of luck"), ("refuses", "it refused: 3"), ("no step", "has made a step")],
)
def test_program_that_does_not_come_to_its_end_is_a_finding_of_one_check(fault: str, said: str) -> None:
    """All others say that they cannot compare, and where to look."""
    (finding,) = checked("GG670", fault).findings
    assert said in finding.message and (finding.victim is not None) == (fault == "raises")
    for code in CODES:
        assert code == "GG670" or "see GG670" in checked(code, fault).inconclusive


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        ("GG494", "equal"),
        ("GG674", "seed"),
        ("GG675", "watching"),
        ("GG676", "options"),
        ("GG678", "updates"),
        ("GG679", "options"),
    ],
)
def test_check_without_what_it_needs_names_it(code: str, left_out: str) -> None:
    """The word of the adapter."""
    empty: Any = {"equal": (), "seed": "", "updates": None}.get(left_out, {})
    assert f"`{left_out}=" in checked(code, **{left_out: empty}).not_applicable


def test_lines_that_are_there_twice_are_a_warning() -> None:
    """A reader may take the last of them."""
    (finding,) = checked("GG672", "log twice").findings
    assert finding.severity == "warning" and "is there 2 times" in finding.message


def test_log_in_no_form_that_is_read_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than a log that is equal."""
    monkeypatch.setattr(whole_runs, "records_of", lambda folder: {})
    assert "JSON lines" in checked("GG672").not_applicable


def test_program_that_is_slow_is_not_taken_for_one_that_hangs(tmp_path: Path) -> None:
    """It still makes updates; the report asks for smaller stages."""
    assert launch(mini_program.subject("slow"), tmp_path / "run", seconds=0.5).end == "slow"


def test_program_whose_process_dies_is_told_of(tmp_path: Path) -> None:
    """And nothing of the harness goes with it."""
    assert launch(mini_program.subject("dies"), tmp_path / "run").in_words == "died: its process ended without a word"


def test_records_are_read_from_every_form(tmp_path: Path) -> None:
    """Numbers as numbers, nested names with dots; other files are left alone."""
    (tmp_path / "a.jsonl").write_text('{"step": 1, "loss": {"total": 0.5}}\n\n{"step": 2, "loss": {"total": NaN}}\n')
    (tmp_path / "b.csv").write_text("step,loss,stage\n1,0.5,critic\n")
    (tmp_path / "c.json").write_text('[{"step": 1, "losses": [1, 2]}]')
    (tmp_path / "d.json").write_text('{"config": 1}')
    (tmp_path / "e.txt").write_text("all is well\n")
    found = records_of(tmp_path)
    assert list(found) == ["a.jsonl", "b.csv", "c.json"]
    assert found["a.jsonl"][0] == {"step": 1, "loss.total": 0.5}
    assert found["b.csv"] == [{"step": 1, "loss": 0.5, "stage": "critic"}]
    assert found["c.json"] == [{"step": 1, "losses[0]": 1, "losses[1]": 2}]


@pytest.mark.parametrize("name", ["seconds", "time", "tokens_per_sec", "train/elapsed", "peak_memory", "saved_at"])
def test_names_of_clocks_are_not_compared(name: str) -> None:
    """Two equal runs have them otherwise."""
    assert is_of_the_clock(name)


@pytest.mark.parametrize("name", ["loss", "step", "lr", "seed", "tau", "grad_norm"])
def test_names_of_numbers_are_compared(name: str) -> None:
    """As all that a run's settings decide."""
    assert not is_of_the_clock(name)


def test_resume_is_looked_at_behind_switches() -> None:
    """A generator that is used where noise is on alone: the setting is named, and no other."""
    (finding,) = checked("GG671", "no noise").findings
    assert finding.message.endswith("with noise = 0.1")


@pytest.mark.parametrize("code", CODES)
def test_programs_are_not_launched_for_a_gpu(code: str, tmp_path: Path) -> None:
    """A fork has none; the reason says what to do."""
    subject = mini_program.subject()
    context = Context(folder=tmp_path, device="cuda")
    outcome = catalogue.load_check(catalogue.rule(code)).function(subject, subject.stages[0], context)
    assert "--device cpu" in outcome.not_applicable


def test_program_is_started_from_where_its_package_lies(tmp_path: Path) -> None:
    """Its paths are relative to the project, as on its command line."""
    package = tmp_path / "inner"
    package.mkdir()
    (package / "__init__.py").write_text("")
    program = Program(lambda folder, *_: (folder / "where").write_text(str(Path.cwd())))
    subject = replace(mini_program.subject(), program=program, source=package)
    assert launch(subject, tmp_path / "run").end == "ended"
    assert Path((tmp_path / "run" / "where").read_text()) == tmp_path.resolve()
