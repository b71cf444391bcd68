"""The runner turns what checks say into results, and leaves no trace of any of them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.plain_loop import PlainRun, capable, subject
from gradgate.checks.isolation import isolated
from gradgate.checks.rules import RULES
from gradgate.checks.runner import check_trainer
from gradgate.core.errors import GradgateError, SubjectError
from gradgate.core.verdict import Result, Verdict
from gradgate.subjects.contract import Functions, Stage, Subject
from gradgate.subjects.global_state import GlobalState


def run(**options) -> Verdict:
    options.setdefault("select", ["GG4"])
    return check_trainer(options.pop("subject", subject()), **options)


def result(**options) -> Result:
    (only,) = [each for each in run(**options).results if each.status != "not_built"]
    return only


def test_runner_says_not_built_of_every_rule_without_a_check(stub_checks):
    """No rule is left out of the verdict, and none without a check looks like one that passed."""
    verdict = run(select=[])
    assert len(verdict.results) == len(RULES)
    assert {(each.status, each.reason) for each in verdict.results} == {("not_built", "not built yet")}


def test_runner_passes_on_what_a_check_measured(stub_checks):
    """Numbers and bounds reach the result as they are."""
    stub_checks("GG401")
    found = result()
    assert (found.status, found.measured, found.allowed) == ("passed", {"error": 0.0}, {"error": 1e-6})


def test_runner_fails_and_explains_when_a_finding_is_an_error(stub_checks):
    """A finding without a reason of its own gets the rule's sentence."""
    stub_checks("GG401", "fail")
    found = result()
    assert found.status == "failed"
    assert found.findings[0].why == "head weights do not sum to 1 at a position that has a valid head"


def test_runner_passes_when_findings_are_only_warnings_and_sorts_the_worst_first(stub_checks):
    """A warning fails nothing; among findings the worst comes first."""
    body = "return Outcome(findings=tuple(Finding('GG401', 'n', s, severity=s) for s in ('note', 'warning'{extra})))"
    stub_checks("GG401", body.replace("{extra}", ""))
    stub_checks("GG402", body.replace("{extra}", ", 'error'"))
    passed, failed = (each for each in run().results if each.status != "not_built")
    assert (passed.status, failed.status) == ("passed", "failed")
    assert [finding.severity for finding in failed.findings] == ["error", "warning", "note"]


def test_runner_reports_inconclusive_and_not_applicable_with_their_reasons(stub_checks):
    """What a check says of itself becomes status and reason."""
    stub_checks("GG401", "undecided")
    stub_checks("GG402", "return Outcome(not_applicable='nothing to weigh')")
    found = [(each.status, each.reason) for each in run(select=["GG401", "GG402"]).results]
    assert found == [("inconclusive", "too few seeds"), ("not_applicable", "nothing to weigh")]


def test_runner_reports_error_with_the_end_of_the_traceback_when_a_check_breaks(stub_checks):
    """A check at fault is no verdict on the trainer."""
    stub_checks("GG401", "crash")
    found = result()
    assert found.status == "error"
    assert found.reason.splitlines()[0] == "RuntimeError: the check is at fault"
    assert "gg401_weight_sum.py:17 in check" in found.reason.splitlines()[-1]


@pytest.mark.parametrize("body", ["import sys; sys.exit(0)", "return None"])
def test_runner_reports_error_when_a_check_exits_or_returns_no_outcome(stub_checks, body: str):
    """Neither an exit nor a missing result is a pass."""
    stub_checks("GG401", body)
    assert result().status == "error"


def test_runner_reports_error_when_a_check_does_not_import(stub_checks):
    """A broken check file is an error of that one rule."""
    stub_checks("GG401", "pass\n  !")
    stub_checks("GG402")
    assert [each.status for each in run(select=["GG401", "GG402"]).results] == ["error", "passed"]


def test_runner_reports_failed_when_a_check_finds_the_contract_broken(stub_checks):
    """A SubjectError is the subject's fault, so is what the subject raises itself."""
    stub_checks("GG401", "raise SubjectError('total is no scalar')")
    stub_checks(
        "GG402", "from gradgate.checks.raised import SubjectRaisedError as R; raise R('step 1', ValueError('x'))"
    )
    found = [(each.status, each.findings[0].message) for each in run(select=["GG401", "GG402"]).results]
    assert found == [("failed", "total is no scalar"), ("failed", "step 1 raised ValueError: x")]


def test_runner_names_the_line_of_adapter_when_a_capability_is_missing(stub_checks):
    """Not applicable is an invitation: it says what to write."""
    stub_checks("GG401", "crash", needs=("corpus",))
    assert result().status == "not_applicable"
    assert result().reason == "give the subject `corpus=`: a function that returns gradgate.Corpus"


def test_runner_is_inconclusive_when_the_stage_does_not_start(stub_checks):
    """Without a run nothing can be said of its capabilities; GG001 says what is wrong."""
    stub_checks("GG401", "crash", needs=("losses",), per_stage=True)
    broken = Subject("s", [Stage("broken", lambda seed, **_: 1 / 0)])
    found = result(subject=broken)
    assert found.status == "inconclusive"
    assert found.reason.startswith("stage 'broken' does not start: ZeroDivisionError")


def test_runner_runs_a_check_on_every_stage_or_once(stub_checks):
    """PER_STAGE decides, and the objective narrows it."""
    stub_checks("GG401", per_stage=True)
    stub_checks("GG402")
    stub_checks("GG403", per_stage=True, objective="value")
    found = run(subject=capable(), select=["GG401", "GG402", "GG403"]).results
    expected = [("GG401", "warm-up"), ("GG401", "train"), ("GG402", None), ("GG403", "train")]
    assert [(each.code, each.stage) for each in found] == expected


def test_runner_is_not_applicable_when_no_stage_has_the_objective(stub_checks):
    """The reason names what to declare."""
    stub_checks("GG401", per_stage=True, objective="tokens")
    assert result(subject=capable()).reason == "no stage learns tokens: give it `objective='tokens'`"


def test_runner_is_not_applicable_when_there_is_no_stage(stub_checks):
    """A subject without stages has nothing to run, and that is not a pass."""
    stub_checks("GG401", per_stage=True)
    assert result(subject=Subject("empty", [])).reason == "no stage: give the subject one"


def test_runner_looks_at_the_chosen_stages_only(stub_checks):
    """Every check sees a subject with these stages alone."""
    stub_checks("GG401", "return Outcome(measured=dict(stages=len(subject.stages)))", per_stage=True)
    found = result(subject=capable(), stages=["train"])
    assert (found.stage, found.measured) == ("train", {"stages": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ["trian"]}, "plain loop has no stage 'trian', only train; did you mean 'train'?"),
        ({"select": ["GG412x"]}, "no rule fits 'GG412x'; did you mean 'GG412'?"),
        ({"profile": "fast"}, "profile: expected one of quick, pr, nightly, got 'fast'"),
        ({"expected": {"GG412x": "why"}}, "expected failures: no rule 'GG412x'; did you mean 'GG412'?"),
    ],
)
def test_runner_refuses_unknown_words(options: dict, message: str):
    """A mistake of use is one clear error, before anything runs."""
    with pytest.raises(GradgateError) as caught:
        run(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "wrong",
    [
        "a string",
        Subject("s", None),
        Subject("s", ["train"]),
        Subject("s", [], functions=lambda: None),
    ],
)
def test_runner_refuses_what_is_no_subject(wrong):
    """Without stages and functions of the right type no check can begin."""
    with pytest.raises(SubjectError):
        check_trainer(wrong)


def test_runner_turns_a_failure_into_expected_with_its_reason(stub_checks):
    """An expected failure never changes the verdict, and keeps its findings."""
    stub_checks("GG401", "fail")
    stub_checks("GG402")
    verdict = run(expected={"weight-sum": "issue 7"})
    found = verdict.results[0]
    assert (found.status, found.reason, len(found.findings)) == ("expected", "issue 7", 1)
    assert verdict.conclusion == "passed"


def test_runner_fails_when_an_expected_failure_passes(stub_checks):
    """Strict: a fault that is gone must leave the list."""
    stub_checks("GG401")
    known = Subject("s", subject().stages, expected={"GG401": "issue 7"})
    found = result(subject=known)
    assert found.status == "failed"
    assert found.findings[0].message == "passed, though it is expected to fail (issue 7)"


def test_runner_accepts_an_expected_failure_on_one_of_two_stages(stub_checks):
    """The expectation is of the rule: the stage that passes stays passed."""
    fail = "return Outcome(findings=(Finding('GG401', 'n', 'm'),) if stage.name == 'train' else ())"
    stub_checks("GG401", fail, per_stage=True)
    verdict = run(subject=capable(), select=["GG401"], expected={"GG401": "issue 7"})
    assert [each.status for each in verdict.results] == ["passed", "expected"]


@pytest.mark.parametrize("body", ["undecided", "crash"])
def test_runner_leaves_other_statuses_alone_when_a_failure_is_expected(stub_checks, body: str):
    """What does not decide, or breaks, is neither the expected failure nor an unexpected pass."""
    stub_checks("GG401", body)
    assert result(expected={"GG401": "issue 7"}).status in ("inconclusive", "error")


def test_runner_stops_at_the_first_failure_and_says_what_it_did_not_run(stub_checks):
    """What was not reached is listed, and what is not built is still said."""
    stub_checks("GG401", "fail", per_stage=True)
    stub_checks("GG402")
    verdict = run(subject=capable(), select=["GG401", "GG402", "GG405"], exit_first=True)
    assert [(each.code, each.status) for each in verdict.results] == [("GG401", "failed"), ("GG405", "not_built")]
    assert verdict.not_run == ("GG401", "GG402")


def test_runner_goes_on_after_an_expected_failure_when_it_stops_at_the_first(stub_checks):
    """An expected failure is no reason to stop."""
    stub_checks("GG401", "fail", per_stage=True)
    stub_checks("GG402")
    verdict = run(subject=capable(), select=["GG401", "GG402"], exit_first=True, expected={"GG401": "issue 7"})
    assert [each.status for each in verdict.results] == ["expected", "expected", "passed"]


def test_runner_gives_what_is_known_when_interrupted(stub_checks):
    """Ctrl-C ends the run, not the report."""
    stub_checks("GG401")
    stub_checks("GG402", "interrupt")
    stub_checks("GG403")
    verdict = run(select=["GG401", "GG402", "GG403"])
    assert verdict.interrupted
    assert [each.code for each in verdict.results] == ["GG401"]
    assert verdict.not_run == ("GG402", "GG403")


def test_runner_tells_progress_before_each_step_and_after_each_result(stub_checks):
    """A display can count: steps are numbered, results follow."""
    stub_checks("GG401", per_stage=True)
    steps, results = [], []
    run(subject=capable(), select=["GG401", "GG402"], on_start=steps.append, on_result=results.append)
    assert [(step.rule.code, step.stage, step.number, step.total) for step in steps] == [
        ("GG401", "warm-up", 1, 2),
        ("GG401", "train", 2, 2),
    ]
    assert [each.code for each in results] == ["GG401", "GG401", "GG402"]


def test_runner_writes_a_command_that_reproduces_the_result(stub_checks):
    """One line for the shell, quoted, with what differs from the defaults."""
    stub_checks("GG401", per_stage=True)
    command = ["gradgate", "verify", "a.b:c", "--path", "my folder"]
    found = run(subject=capable(), select=["GG401"], stages=None, profile="pr", seed=3, command=command).results[1]
    expected = "gradgate verify a.b:c --path 'my folder' --select GG401 --stage train --profile pr --seed 3"
    assert found.reproduce == expected


def test_runner_describes_the_environment(stub_checks):
    """A verdict says where it was reached."""
    environment = run(seed=5).environment
    assert {"gradgate", "python", "torch", "platform", "machine", "cpus", "threads"} <= set(environment)
    assert (environment["device"], environment["profile"], environment["seed"]) == ("cpu", "quick", 5)


SPOIL = """import os, random, torch, warnings
    torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.use_deterministic_algorithms(True)
    torch.set_autocast_enabled('cpu', True); torch.autograd.set_detect_anomaly(True); torch.set_num_threads(3)
    torch.manual_seed(9); random.seed(9); __import__('numpy').random.seed(9); torch.set_default_device('meta')
    torch.set_float32_matmul_precision('medium'); os.chdir('/'); warnings.simplefilter('ignore')
    torch.backends.cudnn.benchmark = True
    (context.folder / 'left').write_text('x'); open({note!r}, 'w').write(str(context.folder))
    {end}"""


@pytest.mark.parametrize("end", ["return Outcome()", "raise RuntimeError"])
def test_runner_leaves_no_trace_of_a_check(stub_checks, tmp_path: Path, end: str):
    """Settings, generators, warning filters and files of a check are gone after it, also when it breaks."""
    note = tmp_path / "note"
    stub_checks("GG401", SPOIL.replace("{note!r}", repr(str(note))).replace("{end}", end))
    before = GlobalState.now()
    result()
    after = GlobalState.now()
    assert before.changes() == []
    assert torch.equal(before.rng[0], after.rng[0])
    assert before.rng[2] == after.rng[2]
    assert np.array_equal(before.rng[3][1], after.rng[3][1])
    assert not Path(note.read_text()).exists()


def test_isolation_seeds_every_generator():
    """Whatever ran before, a check draws the same numbers."""

    def draw() -> tuple[float, float, float]:
        with isolated(7):
            return torch.rand(()).item(), random.random(), float(np.random.rand())

    first = draw()
    torch.rand(3)
    assert draw() == first


def test_runner_gives_plain_runs_the_device(stub_checks):
    """The device reaches the check and the start of runs."""
    seen = []

    def start(seed, *, dtype=torch.float32, device="cpu"):
        seen.append(device)
        return PlainRun(seed)

    stub_checks("GG401", "return Outcome(measured=dict(device=context.device))", needs=("losses",), per_stage=True)
    stub_checks("GG402", "return Outcome(measured=dict(device=context.device))")
    verdict = check_trainer(Subject("s", [Stage("train", start)], Functions()), select=["GG40"], device="cpu")
    assert seen == ["cpu"]
    assert verdict.results[1].measured == {"device": "cpu"}
