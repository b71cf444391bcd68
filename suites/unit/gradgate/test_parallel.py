"""Checks in processes of their own say what they say in one, and none of them takes the others with it."""

from __future__ import annotations

import inspect
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from fixtures.plain_loop import PlainRun, capable, subject
from gradgate import check_trainer, cli
from gradgate.checks import gg704_slower_than_baseline, parallel
from gradgate.checks.catalogue import is_built, load_check, rule, select
from gradgate.checks.parallel import answers
from gradgate.checks.tally import Unit
from gradgate.core.errors import GradgateError
from gradgate.core.origin import in_stack
from gradgate.core.verdict import Result, Verdict
from gradgate.core.workers import usable_cores
from gradgate.subjects.contract import Stage, Subject

pytestmark = pytest.mark.skipif(not usable_cores(), reason="processes are forked on Linux")


def _ending(step: Callable[[], Any]) -> Subject:
    class Ending(PlainRun):
        def step(self, batch: Any) -> Any:
            step()
            return super().step(batch)

    return Subject("ending", [Stage("train", Ending)])


def _told(verdict: Verdict) -> list[Any]:
    return [(one.code, one.stage, one.status, one.findings, one.measured, one.reason) for one in verdict.results]


def test_checks_side_by_side_say_what_they_say_one_by_one():
    """Every result is the same, in the same order, whichever process ran it."""
    told: list[Result] = []
    options: dict[str, Any] = {"select": ["GG1", "GG4", "GG206", "GG901"], "expected": {"GG206": "known"}}
    apart = check_trainer(capable(), jobs=2, on_result=told.append, **options)
    assert _told(apart) == _told(check_trainer(capable(), **options))
    assert tuple(told) == apart.results


def test_prints_of_the_trainer_are_dropped_in_processes_and_shown_in_one(capfd: pytest.CaptureFixture[str]) -> None:
    """On either stream, also past Python's; hundreds of runs of a trainer that prints each step bury the results."""

    def step() -> None:
        sys.stdout.write("spoken\n")
        sys.stderr.write("warned\n")
        os.write(1, b"written")

    for jobs, heard in ((1, False), (0, True)):
        verdict = check_trainer(_ending(step), select=["GG100"], jobs=jobs)
        assert verdict.results[0].status == "passed"
        out, err = capfd.readouterr()
        assert [word in out + err for word in ("spoken", "warned", "written")] == [heard] * 3


def test_check_that_hangs_in_c_is_killed_and_its_line_named(monkeypatch: pytest.MonkeyPatch):
    """No signal reaches a loop in C; the process ends, the line is known, the rest goes on."""
    monkeypatch.setattr(parallel, "_OVERTIME", 0.3)
    hanging = _ending(lambda: sum(itertools.repeat(0)))
    verdict = check_trainer(hanging, select=["GG100", "GG401"], timeout=0.7, jobs=1)
    hung, other = verdict.results
    assert hung.status == "failed"
    assert "0.7 s and did not come back from a call into C" in hung.findings[0].message
    assert hung.findings[0].victim is not None
    assert "itertools.repeat(0)" in hung.findings[0].victim.source
    assert other.status == "not_applicable"


def test_check_whose_process_dies_is_an_error_and_the_rest_goes_on():
    """An exit from below is neither a pass nor the end of the run."""
    verdict = check_trainer(_ending(lambda: os._exit(3)), select=["GG100", "GG401"], jobs=1)
    died, other = verdict.results
    assert (died.status, died.reason) == ("error", "the process that ran it crashed (exit 3)")
    assert other.status == "not_applicable"


def _interrupts() -> None:
    raise KeyboardInterrupt


def test_keyboard_interrupt_of_the_subject_is_an_error_when_checks_run_apart():
    """Ctrl-C does not reach a worker, so what looks like it comes from the trainer."""
    verdict = check_trainer(_ending(_interrupts), select=["GG100"], jobs=1)
    assert (verdict.interrupted, verdict.results[0].status) == (False, "error")
    assert verdict.results[0].reason.startswith("KeyboardInterrupt")


def test_ctrl_c_amid_a_check_that_runs_in_this_process_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    """Here it is the user's, also where other checks have run apart."""
    monkeypatch.setattr(gg704_slower_than_baseline, "check", lambda *_: _interrupts())
    verdict = check_trainer(capable(), select=["GG100", "GG704"], jobs=1)
    assert (verdict.interrupted, verdict.not_run) == (True, ("GG704",))


def test_exit_first_stops_the_others():
    """The first failure ends the run, and what has not run is named."""
    verdict = check_trainer(_ending(lambda: 1 / 0), select=["GG100", "GG2", "GG6"], jobs=1, exit_first=True)
    assert verdict.conclusion == "failed"
    assert "GG602" in verdict.not_run


def _result(number: int) -> Result:
    return Result(str(os.getpid()), str(number), "passed")


def _units(*codes: str) -> list[Unit]:
    return [Unit(load_check(rule(code)), None) for code in codes]


def test_checks_that_want_a_quiet_machine_come_last_and_in_this_process():
    """A clock is read when no other check runs; checks that share a fit share a process, and begin first."""
    begun: list[int] = []
    units = _units("GG704", "GG401", "GG901", "GG506")
    done = list(answers(units, _result, _result, lambda *_: _result(0), jobs=2, limit=60.0, on_start=begun.append))
    processes = {number: result.code for number, result in done}
    assert (done[-1][0], processes[0]) == (0, str(os.getpid()))
    assert processes[2] == processes[3] != processes[0]
    assert begun[0] == 2


def test_every_check_that_reads_a_clock_or_a_fit_says_so():
    """What is shared or timed is declared: by the modules that give it."""
    for check in map(load_check, filter(is_built, select())):
        names = set(inspect.unwrap(check.function).__globals__)
        assert (check.group == "fits") == ("fit" in names), check.rule.code
        assert check.solo == bool(names & {"timed", "judged", "outcome_of"}), check.rule.code


@pytest.mark.parametrize("words", [["--device", "cuda:0"], []])
def test_verify_refuses_jobs_where_none_can_be(monkeypatch: pytest.MonkeyPatch, words: list[str]):
    """A process with a CUDA context is not forked."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("gradgate.subjects.loading.load_target", lambda *_: subject())
    done = CliRunner().invoke(cli.cli, ["verify", "x:y", "--jobs", "2", *words])
    assert done.exit_code == 2 or isinstance(done.exception, GradgateError)
    assert "--jobs 0" in (done.output or str(done.exception))


def test_innermost_line_is_taken_from_the_thread_that_died():
    """faulthandler marks it; without a mark the main thread is the last."""
    other, main = ('  File "/x/other.py", line 3 in helper\n', '  File "<frozen x>", line 1 in f\n')
    own = '  File "/x/mine.py", line 7 in <module>\n'
    timeout = (
        f"Timeout!\nThread 0x1 (most recent call first):\n{other}\nThread 0x2 (most recent call first):\n{main}{own}"
    )
    crash = f"Fatal\nCurrent thread 0x1 (most recent call first):\n{other}\nThread 0x2 (most recent call first):\n{own}"
    assert str(in_stack(timeout)) == "/x/mine.py:7"
    assert str(in_stack(crash)) == "/x/other.py:3 in helper()"
    assert in_stack("") is None
