"""A check that hangs is stopped, and the line where it hung is named."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fixtures.plain_loop import PlainRun
from gradgate import check_trainer, cli
from gradgate.checks import time_limit as module
from gradgate.checks.time_limit import TimeOverError, time_limit
from gradgate.subjects.contract import Stage, Subject


class Hanging(PlainRun):
    """Its step waits for what never comes, behind a handler that catches everything an Exception is."""

    def step(self, batch: Any) -> Any:
        try:
            threading.Event().wait()
        except Exception:
            return {}


@pytest.fixture(autouse=True)
def imported() -> None:
    """The first optimizer imports half of torch, which must not be stopped in the middle."""
    PlainRun(0)


HANGS = Subject("hanging", [Stage("train", Hanging)])


def test_hanging_check_fails_with_the_line_where_it_hung():
    """The verdict is `failed`, the rest goes on, and the timer is off."""
    verdict = check_trainer(HANGS, select=["GG100", "GG401"], timeout=0.5)

    first = verdict.results[0]
    assert (first.code, first.status) == ("GG100", "failed")
    assert first.findings[0].message == "the check took longer than 0.5 s and was stopped"
    assert first.findings[0].victim is not None
    assert first.findings[0].victim.source == "threading.Event().wait()"
    assert verdict.results[1].status == "not_applicable"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("seconds", [1e-9, 1e-6, 1e-4])
def test_limit_of_no_time_leaves_no_timer_behind(seconds: float):
    """However short it is: over before the block begins, within it, or not yet when it ends."""
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(20):
        with contextlib.suppress(TimeOverError), time_limit(seconds):
            pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is before


def test_limit_is_raised_again_where_something_caught_it(monkeypatch: pytest.MonkeyPatch):
    """A bare except in the subject does not save it."""
    monkeypatch.setattr("gradgate.checks.time_limit._AGAIN", 0.1)
    caught = 0
    with pytest.raises(TimeOverError), time_limit(0.1):
        while True:
            try:
                threading.Event().wait()
            except BaseException:
                caught += 1
                if caught == 2:
                    raise


def test_limit_gives_back_the_time_without_a_processor(monkeypatch: pytest.MonkeyPatch):
    """A starved check goes on for as long as it had to wait, and not for ever."""
    waits = iter([1.0, 1.2])  # before the block, and when the limit is over for the first time
    monkeypatch.setattr(module, "_waited", lambda: next(waits, 1.2))
    start = time.monotonic()
    with pytest.raises(TimeOverError, match=r"longer than 0\.2 s"), time_limit(0.2):
        threading.Event().wait()
    assert time.monotonic() - start >= 0.4 - 0.05
    monkeypatch.setattr(module, "_waited", iter([0.0, 100.0]).__next__)
    monkeypatch.setattr(module, "_MOST", 1.0)
    with pytest.raises(TimeOverError), time_limit(0.1):
        threading.Event().wait()


def test_waiting_for_a_processor_is_read_or_nothing(monkeypatch: pytest.MonkeyPatch):
    """Seconds where the kernel tells them, 0 where it does not."""
    if Path("/proc/thread-self/schedstat").exists():
        assert module._waited() > 0
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert module._waited() == 0.0


def test_limit_leaves_a_quick_block_and_somebody_elses_timer_alone():
    """Nothing is raised behind the block; a timer that is set already stays what it is."""
    with time_limit(60.0):
        pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 60.0)
    try:
        with time_limit(0.001):
            threading.Event().wait(0.05)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 1.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def test_limit_does_nothing_outside_the_main_thread():
    """There no signal arrives."""
    ended = []

    def run() -> None:
        with time_limit(0.001):
            threading.Event().wait(0.05)
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended == [True]


def test_verify_stops_what_hangs():
    """From the command line, with exit code 1."""
    done = CliRunner().invoke(
        cli.cli, ["verify", "suites.unit.gradgate.test_time_limit:hanging", "--select", "GG100", "--timeout", "0.5"]
    )
    assert done.exit_code == 1, done.output
    assert "took longer than 0.5 s and was stopped" in done.output


def hanging() -> Subject:
    return HANGS
