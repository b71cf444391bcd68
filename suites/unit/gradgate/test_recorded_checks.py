"""Checks that read one recording: each planted fault turns its own check red and no other; right twins stay green."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures import broken_functions, mini_faults, mini_trainer, recorded_faults
from fixtures.mini_faults import FAULTS
from fixtures.mini_trainer import MiniRun
from fixtures.plain_loop import PlainRun
from fixtures.pytest_fixtures import rest_at_night
from fixtures.recorded_faults import RECORDED, RIGHT
from gradgate import check_trainer
from gradgate.checks import catalogue
from gradgate.checks.consequences import traced
from gradgate.checks.isolation import isolated
from gradgate.checks.recording import STEPS, recorded
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome, Result
from gradgate.report.json import dumps
from gradgate.report.model import build
from gradgate.report.text import to_text
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODES = (
    "GG101", "GG102", "GG103", "GG104", "GG105", "GG106", "GG107", "GG202", "GG209", "GG210", "GG301", "GG302",
    "GG304", "GG307", "GG415",
)  # fmt: skip
NEIGHBOURS = ("GG100", "GG201", "GG205", "GG206", "GG208", "GG601")
LOUD = ("bias-written-in-place",)  # PyTorch's own error leaves the step: whatever drives a step meets it too
CLEAN = mini_trainer.subject()
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a target size"),  # PyTorch sees one of the faults itself
    pytest.mark.usefixtures("nothing_set_aside"),
]


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """One fault keeps graphs in a global."""
    recorded_faults.HISTORY.clear()
    yield
    recorded_faults.HISTORY.clear()


def run_check(code: str, subject: Subject, stage: Stage, seed: int = 0) -> Outcome:
    """The outcome of one check on one stage, isolated as the runner does it."""
    with isolated(seed) as folder:
        context = Context(seed=seed, folder=folder)
        return catalogue.load_check(catalogue.rule(code)).function(subject, stage, context)


def errors(outcome: Outcome) -> list[Finding]:
    """The findings that fail a check."""
    return [finding for finding in outcome.findings if finding.severity == "error"]


def stage_of(subject: Subject, name: str) -> Stage:
    """A stage by its name."""
    return next(stage for stage in subject.stages if stage.name == name)


def with_run(run: Callable[..., Run]) -> tuple[Subject, Stage]:
    """A subject of one stage that starts a run of one's own."""
    stage = Stage("own", run)
    return Subject("own", [stage]), stage


def test_compiled_code_in_a_step_is_a_note_and_no_failure() -> None:
    """What the recorder cannot look into is told, with the line that calls it; uncompiled there is nothing to tell."""

    class Compiled(PlainRun):
        def step(self, batch: Any) -> Any:
            doubled = torch.compile(lambda x: x * 2, backend="eager")
            doubled(torch.ones(1))
            return super().step(batch)

    (note,) = run_check("GG003", *with_run(Compiled)).findings

    assert (note.severity, note.culprit and note.culprit.source) == ("note", "doubled(torch.ones(1))")
    assert run_check("GG003", *with_run(PlainRun)).findings == ()


# --- each fault, and its right twin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_fault_turns_its_check_red_and_names_the_line(name: str) -> None:
    """The culprit is a line of the file that holds the faults."""
    fault = RECORDED[name]
    subject = fault.subject()

    outcome = run_check(fault.code, subject, stage_of(subject, fault.stage))

    assert {(finding.code, finding.name) for finding in errors(outcome)} == {
        (fault.code, catalogue.rule(fault.code).name)
    }
    culprit = errors(outcome)[0].culprit
    assert culprit is not None
    assert Path(culprit.file).name == "recorded_faults.py"
    assert outcome.measured.keys() >= outcome.allowed.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_fault_turns_no_other_check_red(name: str) -> None:
    """Neither another one that reads the recording nor one that measures gradients."""
    fault = RECORDED[name]
    subject = fault.subject()
    others = [code for code in CODES + (() if name in LOUD else NEIGHBOURS) if code != fault.code]

    red = [code for code in others if errors(run_check(code, subject, stage_of(subject, fault.stage)))]

    assert red == []


@pytest.mark.parametrize("seed", rest_at_night(range(3), day=1))
def test_clean_twin_passes_every_recorded_check(seed: int) -> None:
    """No finding of any severity, decided, on both stages."""
    for stage in CLEAN.stages:
        for code in CODES:
            outcome = run_check(code, CLEAN, stage, seed)
            assert (code, outcome.findings, outcome.inconclusive, outcome.not_applicable) == (code, (), "", "")


@pytest.mark.parametrize("name", RIGHT)
def test_right_twin_passes_every_recorded_check(name: str) -> None:
    """What looks like a fault and is none."""
    subject = mini_trainer.subject(**RIGHT[name])
    found = [run_check(code, subject, stage).findings for stage in subject.stages for code in CODES]

    assert [finding for findings in found for finding in findings] == []


def test_every_recorded_check_has_a_fault() -> None:
    """The list of codes and the list of faults agree."""
    assert {fault.code for fault in RECORDED.values()} == set(CODES)


# --- the recording ---------------------------------------------------------------------------------------------------


def test_recording_is_made_once_for_all_codes() -> None:
    """A stage is started and stepped once a seed."""
    starts: list[int] = []

    def start(seed: int, **options: Any) -> Run:
        starts.append(seed)
        return PlainRun(seed, **options)

    subject, stage = with_run(start)
    for seed in (0, 0, 1):
        for code in CODES[:-1]:
            run_check(code, subject, stage, seed)

    assert starts == [0, 1]


def zeroed(*arguments: Tensor, **options: Any) -> Tensor:
    weight_BSH = broken_functions.weights(*arguments, **options).softmax(-1)
    weight_BSH[..., 0] = 0.0
    return weight_BSH


def zeroed_through_data(*arguments: Tensor, **options: Any) -> Tensor:
    weight_BSH = broken_functions.weights(*arguments, **options).softmax(-1)
    weight_BSH.data[..., 0] = 0.0
    return weight_BSH


@pytest.mark.parametrize(("code", "weights"), [("GG101", zeroed), ("GG103", zeroed_through_data)])
def test_formulas_are_recorded_though_the_run_detaches_them(code: str, weights: Callable[..., Tensor]) -> None:
    """The weights' own line is named; the stage that does not learn tokens says nothing of them."""
    functions = dataclasses.replace(broken_functions.good_functions(), weights=weights)
    subject = Subject("own", [Stage("a", PlainRun), Stage("b", PlainRun, objective="tokens")], functions=functions)

    (finding,) = run_check(code, subject, subject.stages[1]).findings

    assert finding.culprit is not None
    assert (finding.culprit.function, finding.severity) == (weights.__name__, "error")
    assert run_check(code, subject, subject.stages[0]).findings == ()


def test_weights_that_are_made_without_a_graph_are_no_cut() -> None:
    """They are constants of the loss: nothing is to come back through them."""
    constant = torch.no_grad()(broken_functions.weights)
    functions = dataclasses.replace(broken_functions.good_functions(), weights=constant)
    subject = Subject("own", [Stage("a", PlainRun)], functions=functions)

    assert run_check("GG202", subject, subject.stages[0]).findings == ()


def test_check_that_raises_takes_the_line_of_the_check_that_names_the_fault() -> None:
    """One write in place makes the formula's check raise too: both name that line, and the second says whose it is."""
    functions = dataclasses.replace(broken_functions.good_functions(), weights=zeroed)
    subject = Subject("own", [Stage("a", PlainRun)], functions=functions)
    found = {
        select: [each for result in check_trainer(subject, select=select).results for each in result.findings]
        for select in (("GG101", "GG403"), ("GG403",))
    }

    cause, *_ = found["GG101", "GG403"]
    both, alone = ([each for each in findings if "inplace operation" in each.message] for findings in found.values())
    assert cause.culprit is not None
    assert [(each.culprit, each.fix, each.detail["follows"]) for each in both] == [(cause.culprit, cause.fix, "GG101")]
    assert [each.culprit for each in alone] == [None]


def test_check_that_raises_keeps_no_line_where_two_faults_could_be_the_cause() -> None:
    """Two lines write in place: which of them made the check raise is not known."""
    place = Location("train.py", 3)
    raised = Finding("GG402", "n", "weights() raised: modified by an inplace operation")
    causes = [
        Finding("GG101", "n", "m", kind="inplace_saved", culprit=dataclasses.replace(place, line=line))
        for line in (3, 4)
    ]
    one, two = (
        traced([Result("GG402", "n", "failed", findings=(raised,)), Result("GG101", "n", "failed", findings=found)])
        for found in (tuple(causes[:1]), tuple(causes))
    )
    assert one[0].findings[0].culprit == place
    assert two[0].findings == (raised,)


def test_recording_holds_no_tensor() -> None:
    """What is kept for the whole process must be small."""
    recording = recorded(CLEAN, CLEAN.stages[0], Context())

    assert (recording.steps, recording.backwards, recording.raised) == (STEPS, STEPS, "")
    assert not any(isinstance(value, Tensor) for value in vars(recording).values())


def test_check_is_inconclusive_where_the_run_raises_something_else() -> None:
    """What comes behind the error was not seen; GG100 says what the error is."""

    class Stopping(PlainRun):
        def step(self, batch: Any) -> dict[str, float]:
            raise ValueError("enough")

    outcome = run_check("GG103", *with_run(Stopping))

    assert outcome.inconclusive.startswith("step 1 of 5: a recorded step raised ValueError: enough")


def test_check_fails_where_the_stage_does_not_start() -> None:
    """The subject's own error, as every check reports it."""

    def start(seed: int, **_: Any) -> Run:
        raise ValueError("no")

    (finding,) = run_check("GG103", *with_run(start)).findings

    assert finding.message == "start() raised ValueError: no"


def test_check_does_not_apply_where_no_backward_runs() -> None:
    """A step by hand, without autograd, has nothing to look at."""

    class ByHand(PlainRun):
        def step(self, batch: Any) -> dict[str, float]:
            return {}

    assert "no backward was seen" in run_check("GG103", *with_run(ByHand)).not_applicable


@pytest.mark.parametrize(
    ("training", "edges", "found"), [(False, None, 0), (True, {"value_loss": ("value_head",)}, 0), (True, None, 1)]
)
def test_check_takes_a_module_that_nothing_holds_for_frozen(training: bool, edges: Any, found: int) -> None:
    """A reference model whose score enters as a number is no cut, though its parameters require grad: in eval mode, or
    where no declared edge trains it."""

    class WithReference(MiniRun):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
            super().__init__("value", mini_trainer.Parts(backward=self.scored), seed, dtype, device)
            self.modules = {**self.modules, "reference": nn.Linear(3, 1).to(dtype).train(training)}

        @staticmethod
        def scored(run: MiniRun, terms: Any) -> None:
            score = run.modules["reference"](torch.ones(1, 3)).sum().item()
            (terms["total"] * (1 + score**2)).backward()

    stage = Stage("own", WithReference, edges=edges)

    assert len(run_check("GG202", Subject("own", [stage]), stage).findings) == found


# --- the guilty line in other checks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "function", "source"),
    [
        ("softmax-zeroed-in-place", "zeroed_in_place", "weight_BSH[~valid_BSH] = 0.0"),
        ("backward-twice", "backward_twice", 'terms["total"].backward()'),
        ("softmax-zeroed-through-data", "zeroed_through_data", "weight_BSH.data[~valid_BSH] = 0.0"),
        ("softmax-zeroed-through-numpy", "zeroed_through_numpy", "weight_BSH.detach().numpy()"),
        ("head-in-no-loss", "__init__", "self.heads, self.unused = heads, nn.Linear(D, V)"),
    ],
)
def test_check_carries_the_guilty_line_from_the_recorder(name: str, function: str, source: str) -> None:
    """GG100, GG201 and GG205 say where."""
    fault = FAULTS[name]
    subject = fault.subject()
    culprits = [finding.culprit for finding in run_check(fault.code, subject, stage_of(subject, fault.stage)).findings]

    assert any(place and place.function == function and place.source.startswith(source) for place in culprits)


def test_gg206_names_where_gradients_should_have_been_cleared() -> None:
    """Nothing clears them anywhere: the line is where the step begins its forward, before which that belongs."""
    subject = mini_trainer.subject(zero_grad=mini_faults.never_zeroed, update=mini_faults.unclipped)
    (finding,) = run_check("GG206", subject, subject.stages[0]).findings

    assert finding.culprit is not None
    assert (finding.culprit.function, finding.culprit.source) == ("step", "for micro in window:")


def test_check_keeps_its_finding_where_the_recorder_names_no_line() -> None:
    """A factor is no write: nothing to point at."""
    fault = FAULTS["divided-too-often"]
    subject = fault.subject()
    (finding, *_) = run_check(fault.code, subject, stage_of(subject, fault.stage)).findings

    assert finding.culprit is None


def test_verify_shows_culprit_and_victim_in_text_and_json() -> None:
    """As blame does."""
    subject = RECORDED["halved-in-place"].subject()
    verdict = check_trainer(subject, select=["GG101"], stages=["value"])
    text = to_text(build(verdict))
    (finding,) = json.loads(dumps(verdict))["results"][0]["findings"]

    assert "recorded_faults.py:" in text and "gate.mul_(0.5)" in text and "gate = total.exp()" in text
    assert (finding["culprit"]["source"], finding["victim"]["source"]) == ("gate.mul_(0.5)", "gate = total.exp()")


# --- GG415 on a single row --------------------------------------------------------------------------------------------


def test_gg415_does_not_cut_batches_where_the_run_cannot() -> None:
    """Without `rows` only the recording is read."""
    subject, stage = with_run(PlainRun)

    assert run_check("GG415", subject, stage).findings == ()


def test_gg415_leaves_an_error_without_a_squeeze_to_others() -> None:
    """A step that wants two rows for another reason is no dropped batch."""

    class WantsTwo(MiniRun):
        def step(self, batch: Any) -> Any:
            if len(batch.token_BS) < 2:
                raise ValueError("give me two rows")
            return super().step(batch)

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        return WantsTwo("value", mini_trainer.Parts(), seed, dtype, device)

    assert run_check("GG415", *with_run(start)).findings == ()


def test_recording_fields_are_text_and_numbers() -> None:
    """So that `replace` on it stays cheap and it can be kept."""
    names = [field.name for field in dataclasses.fields(recorded(CLEAN, CLEAN.stages[0], Context()))]

    assert names == ["findings", "steps", "backwards", "raised", "nan_metrics"]
