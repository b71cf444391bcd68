"""The zygote and its workers: forked, heard, ended, and reported when they die."""

from __future__ import annotations

import importlib
import os
import random
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.two_checkouts import checkout
from gradgate.compare import processes, worker, zygote
from gradgate.compare.processes import DiedError, Zygote
from gradgate.compare.session import Question, _job


@pytest.fixture(scope="module")
def fresh() -> Iterator[Zygote]:
    """One import of torch for all tests here."""
    with processes.zygote() as source:
        yield source


def job(folder: Path, target: str = "plane:make") -> Any:
    here = checkout(folder / "project")
    return _job(Question(target, here, here))


def silent(text: str) -> None:
    """Progress is not looked at here."""


def test_workers_of_one_zygote_are_processes_of_their_own(fresh: Zygote, tmp_path: Path):
    """Each answers its own job, also after the zygote has loaded something for later ones."""
    pids = []
    for _ in range(2):
        with fresh.started(job(tmp_path)) as one:
            pids.append(one.pid)
            assert one.answer(silent)["missing"][0] == "head"
        fresh.load("json")
    assert pids[0] != pids[1]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_worker_that_is_killed_is_reported_with_its_signal(fresh: Zygote, tmp_path: Path):
    """And nothing of it is left."""
    with fresh.started(job(tmp_path), core=min(os.sched_getaffinity(0))) as one:
        one.kill()
        one.send("1")
        with pytest.raises(DiedError, match="SIGKILL"):
            list(map(one.answer, [silent] * 3))  # it may have answered before it was killed


def test_a_worker_that_crashes_is_reported_with_its_last_words(fresh: Zygote):
    """A traceback of ours, for one."""
    nonsense: Any = SimpleNamespace(dumps=lambda: "nonsense")
    with fresh.started(nonsense) as one, pytest.raises(DiedError, match="exit code 1") as raised:
        one.answer(silent)
    assert "JSONDecodeError" in raised.value.args[1]


def test_a_zygote_that_is_killed_is_reported(tmp_path: Path):
    """Before it could fork anything; where torch does not import it ends the same way."""
    with processes.zygote() as source:
        source._process.kill()
        source._process.wait()
        with pytest.raises(DiedError, match="SIGKILL"), source.started(job(tmp_path)):
            pass


def test_answers_and_progress_are_told_apart():
    """What a worker has loaded is for the zygote, progress for the reader."""
    asked, told = [], []
    source: Any = SimpleNamespace(load=asked.append)
    lines: Any = ['{"loaded": "torch._dynamo"}', '{"progress": "counting"}', '{"ready": 1}']
    none: Any = None
    assert processes.Worker(source, 1, none, lines, none).answer(told.append) == {"ready": 1}
    assert (asked, told) == (["torch._dynamo"], ["counting"])


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The zygote in this process: what it forks, kills and imports is only noted."""
    noted: list[Any] = []
    monkeypatch.setattr(os, "fork", lambda: 4242)
    monkeypatch.setattr(os, "waitpid", lambda pid, _: (pid, 9))
    monkeypatch.setattr(os, "killpg", lambda pid, number: noted.append((pid, number)))
    monkeypatch.setattr(importlib, "import_module", noted.append)
    monkeypatch.setattr(zygote, "undisturbed", nullcontext)
    monkeypatch.setattr(zygote.gc, "freeze", lambda: None)
    return noted


def test_zygote_kills_what_it_forked_when_its_other_end_is_gone(served: list[Any], monkeypatch: pytest.MonkeyPatch):
    """A comparison that is killed leaves no process behind."""
    ours, its = socket.socketpair()
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "argv", ["zygote", str(its.detach())])
    socket.send_fds(ours, [b"fork"], [reading, writing, 2])
    ours.shutdown(socket.SHUT_WR)
    zygote.main()
    assert (ours.recv(64), served[1:]) == (b"4242", [(4242, signal.SIGKILL)])
    for end in (ours, reading, writing):
        os.close(end) if isinstance(end, int) else end.close()


def test_zygote_loads_and_reaps(served: list[Any]):
    """A module that is missing is no reason to end; how a worker ended is its exit code, or minus its signal."""
    channel: Any = None
    assert zygote._reply(channel, set(), [], "load", "torch._dynamo") == b"0"
    assert served == ["torch._dynamo"]
    assert zygote._reply(channel, {7}, [], "reap", "7") == b"-9"


@pytest.mark.parametrize(("error", "code"), [(None, 0), (RuntimeError("boom"), 1), (KeyboardInterrupt(), 1)])
def test_a_fork_ends_as_the_interpreter_would(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException | None, code: int
):
    """The worker's work, then its exit code, with the traceback of what it raised."""

    def work(answers: int) -> None:
        if error:
            raise error

    ended: list[int] = []
    for name in ("setsid", "dup2"):
        monkeypatch.setattr(os, name, lambda *_: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(worker, "main", work)
    monkeypatch.setattr(random, "randrange", lambda most: 1)
    zygote._work(0, 1, 2)
    zygote._kept.clear()
    assert ended == [code]
    assert ("Traceback" in capsys.readouterr().err) == bool(code)
