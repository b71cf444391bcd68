"""Sandbox: whatever a program does, the trainer gets one outcome and nothing is left behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wmtp.errors import RewardError
from wmtp.rewards import sandbox as sandbox_module
from wmtp.rewards import worker
from wmtp.rewards.sandbox import Limits, Outcome, Sandbox, run_programs

BRIEF = Limits(cpu_s=0.3, wall_s=10.0, memory_mib=256)
TOUCHED = Path(tempfile.gettempdir()) / "wmtp-sandbox-test-must-not-exist"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


def workers_of(pid: int) -> set[int]:
    """Living processes whose parent is `pid`."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid and state != "Z":
            found.add(int(name.split()[0]))
    return found


# --- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("assert 1 + 1 == 2", Outcome("passed")),
        ("", Outcome("passed")),
        ("if __name__ == '__main__':\n    assert False", Outcome("failed", "AssertionError at `assert False`")),
        ("def f():\n    return 1\nassert f() == 2, 'no'", Outcome("failed",
         "AssertionError: no at `assert f() == 2, 'no'`")),
        ("1 / 0", Outcome("error", "ZeroDivisionError: division by zero at `1 / 0`")),
        ("def f(:", Outcome("error", "SyntaxError: invalid syntax (<program>, line 1)")),
        ("x = '\ud800'", Outcome("error", "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in "
         "position 5: surrogates not allowed")),
        ("raise KeyboardInterrupt", Outcome("error", "KeyboardInterrupt at `raise KeyboardInterrupt`")),
        ("raise BaseException('b')", Outcome("error", "BaseException: b at `raise BaseException('b')`")),
        ("import sys; sys.exit(0)", Outcome("error", "SystemExit: 0 at `import sys; sys.exit(0)`")),
        ("import os; os._exit(0)", Outcome("error", "ended with exit status 0 before its tests were through")),
        ("import os; os.abort()", Outcome("error", "ended by SIGABRT before its tests were through")),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", Outcome("error", "E")),
    ],
)  # fmt: skip
def test_program_has_one_outcome(sandbox: Sandbox, program: str, expected: Outcome) -> None:
    """Only a program that reaches its end passes: not one that leaves early, however orderly."""
    assert sandbox.run(program) == expected


def test_program_that_closes_its_pipe_has_not_passed(sandbox: Sandbox) -> None:
    """Without its pipe a program can give no verdict: whether it ends or is ended first, that is an error."""
    assert sandbox.run("import os; os.closerange(0, 99)").status == "error"


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "while True: print('x' * 100_000)",
        "10 ** 10 ** 10",
        "import os\nos.closerange(0, 99)\nwhile True: pass",
    ],
)
def test_program_that_never_ends_is_ended(sandbox: Sandbox, program: str) -> None:
    """A program that uses up its processor time is ended, whatever it catches, prints or closes."""
    outcome = sandbox.run(program, limits=BRIEF)
    if "closerange" in program:  # without its pipe it can give no verdict: it is ended at once
        assert outcome == Outcome("error", "ended by SIGKILL before its tests were through")
    else:
        assert outcome == Outcome("timeout", "used more than 0.3 s of processor time")


def test_program_that_sleeps_is_ended(sandbox: Sandbox) -> None:
    """Waiting uses no processor time; the clock ends it."""
    outcome = sandbox.run("import time; time.sleep(60)", limits=Limits(wall_s=0.2))
    assert outcome == Outcome("timeout", "still running after 0.2 s")


def test_program_that_disarms_its_timer_is_ended(sandbox: Sandbox) -> None:
    """The operating system's own limit stands behind the timer that a program may switch off."""
    program = "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nwhile True: pass"
    outcome = sandbox.run(program, limits=Limits(cpu_s=0.1, wall_s=20))
    assert outcome == Outcome("timeout", "used more than 0.1 s of processor time")


@pytest.mark.parametrize(
    "program",
    [
        "x = [0] * 10**10",
        "x = []\nwhile True: x.append('y' * 10**6)",
        "f = lambda: f()\nf()",
        "import sys\nsys.setrecursionlimit(10**8)\ndef f(): return [f() for _ in '1']\nf()",
        "open('big', 'wb').write(b'x' * 2**22)",
        "files = [open(str(i), 'w') for i in range(99)]",
    ],
)
def test_program_that_takes_too_much_is_stopped(sandbox: Sandbox, program: str) -> None:
    """Memory, stack, file size and open files end; the trainer goes on."""
    outcome = sandbox.run(program, limits=Limits(cpu_s=5, memory_mib=128))
    assert outcome.status in ("error", "timeout")
    assert sandbox.run("assert True") == Outcome("passed")


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.fork()",
        "import os; os.system('true')",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.killpg(0, 9)",
        "import subprocess; subprocess.run(['true'])",
        "import _posixsubprocess; _posixsubprocess.fork_exec()",
        "import threading; threading.Thread(target=print).start()",
        "import socket; socket.socket()",
        "import ctypes",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        f"open({str(TOUCHED)!r}, 'w')",
        f"import os; os.mkdir({str(TOUCHED)!r})",
        f"import os; os.open({str(TOUCHED)!r}, os.O_CREAT | os.O_RDWR)",
        "import os; os.mkdir('../beside')",
        "import os; os.symlink('/', 'root'); open('root/touched', 'w')",
        "import shutil; shutil.rmtree('/nowhere-at-all')",
        f"import pathlib; pathlib.Path({str(TOUCHED)!r}).touch()",
    ],
)
def test_program_is_refused_what_reaches_outside(sandbox: Sandbox, program: str) -> None:
    """Processes, threads, signals, sockets, ctypes and writing outside the working folder raise PermissionError."""
    outcome = sandbox.run(program)
    assert (outcome.status, outcome.message.split(":")[0]) == ("error", "PermissionError")
    assert not TOUCHED.exists()


def test_program_works_in_an_empty_folder_without_environment(sandbox: Sandbox) -> None:
    """Each program finds an empty folder of its own, no environment, no input, and nothing of the one before."""
    program = (
        "import os, sys\n"
        "assert os.listdir() == [] and dict(os.environ) == {} and sys.stdin.read() == ''\n"
        "open('left', 'w').write('x'); os.mkdir('sub'); os.remove('left'); open('left', 'w').close()\n"
        "open(os.devnull, 'w').write('x')\n"
        "sys.modules['math'].pi = 3; math = None\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('wmtp', 'torch', 'site')]"
    )
    assert [sandbox.run(program), sandbox.run(program)] == [Outcome("passed")] * 2
    assert sandbox.run("import math; assert math.pi > 3.14") == Outcome("passed")


def test_outcome_is_the_same_in_every_process() -> None:
    """Hashes of strings and random numbers do not vary from worker to worker, so a reward does not either."""
    program = "import random\nassert False, (hash('a'), random.random(), list({'a', 'b', 'c', 'd'}))"
    assert len(set(run_programs([program] * 4, workers=2))) == 1


def test_program_cannot_reach_the_workers_pipes(sandbox: Sandbox) -> None:
    """A program has the standard streams and its own result pipe open, nothing else of the worker's."""
    assert sandbox.run("import os; assert len(os.listdir('/proc/self/fd')) <= 5") == Outcome("passed")


def test_program_cannot_pass_by_writing_to_every_pipe(sandbox: Sandbox) -> None:
    """A verdict needs the token of its run; writing around blindly ends without one."""
    flood = 'for fd in range(3, 40):\n    try: os.write(fd, b\'["passed", ""]\\n\')\n    except OSError: pass'
    program = f"import os\n{flood}\n1/0"
    assert sandbox.run(program).status == "error"


# --- several programs, and the worker's end --------------------------------------------------------------------------


def test_outcomes_keep_their_order() -> None:
    """Outcomes come in the programs' order, whichever is done first; progress counts them."""
    programs = [f"import time; time.sleep({0.05 if i == 0 else 0}); assert {i} % 3" for i in range(7)]
    done: list[int] = []
    outcomes = run_programs(programs, workers=3, progress=done.append)
    assert [outcome.status for outcome in outcomes] == ["passed" if i % 3 else "failed" for i in range(7)]
    assert done == [1, 2, 3, 4, 5, 6, 7]


def test_no_programs_need_no_worker() -> None:
    """Nothing to run is no error."""
    assert run_programs([]) == []


def test_worker_that_dies_is_replaced(sandbox: Sandbox) -> None:
    """A program whose worker was killed is run again by a new one."""
    sandbox.start("import time; time.sleep(0.2)", Limits())
    assert sandbox._process is not None
    sandbox._process.kill()
    while (outcome := sandbox.poll()) is None:
        sandbox_module.wait([sandbox.reply_descriptor], sandbox.left_s())
    assert outcome == Outcome("passed")


def test_worker_that_dies_twice_is_an_error_of_the_program(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that takes its worker along twice earns nothing, and the sandbox goes on."""
    send = Sandbox._send

    def send_and_kill(self: Sandbox, wall_s: float) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        send(self, wall_s)

    monkeypatch.setattr(Sandbox, "_send", send_and_kill)
    assert sandbox.run("assert True") == Outcome("error", "its worker process died twice")
    monkeypatch.undo()
    assert sandbox.run("assert True") == Outcome("passed")


def test_worker_that_hangs_is_replaced(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not answer in time counts as dead."""
    monkeypatch.setattr(sandbox_module, "GRACE_S", 0.0)
    monkeypatch.setattr(sandbox_module, "CLOSE_S", 0.0)
    monkeypatch.setattr(Sandbox, "_open", lambda _self: None)
    sandbox.start("import time; time.sleep(9)", Limits(wall_s=1e-9))
    sandbox._tries_left = 0
    assert sandbox.poll() == Outcome("error", "its worker process died twice")
    monkeypatch.undo()
    sandbox._open()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while programs run ends workers and children and removes their folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = workers_of(os.getpid())
    started: set[int] = set()

    def interrupt(_done: int) -> None:
        workers = workers_of(os.getpid()) - before
        started.update(workers, *(workers_of(pid) for pid in workers))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_programs(["import time; time.sleep(60)", "assert True"], workers=2, progress=interrupt)
    assert len(started) >= 3
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []


def test_use_outside_the_with_block_is_an_error_of_the_caller() -> None:
    """Without its with block a sandbox has no worker to ask."""
    with pytest.raises(RuntimeError, match="inside its with block"):
        Sandbox().run("pass")


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "value"),
    [("cpu_s", 0), ("wall_s", -1.0), ("memory_mib", 8), ("file_mib", 0), ("open_files", 3), ("cpu_s", float("nan"))],
)
def test_impossible_limit_is_refused(limit: str, value: float) -> None:
    """A limit that is not above its floor is refused by its name."""
    with pytest.raises(RewardError, match=f"limit {limit} must be above"):
        Limits(**{limit: value})


def test_no_workers_are_refused() -> None:
    """At least one program runs at a time."""
    with pytest.raises(RewardError, match="workers must be at least 1, got 0"):
        run_programs(["pass"], workers=0)


def test_platform_without_fork_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process cannot be limited, no program is run, and the message names the other rewards."""
    monkeypatch.delattr(os, "fork")
    with pytest.raises(RewardError, match=r"lacks them: choose critic\.reward: model or reference"), Sandbox():
        pass


def test_platform_that_refuses_a_limit_is_an_error(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that cannot be set is no silent 0 for every program."""
    monkeypatch.setattr(Limits, "request", lambda _self: LIMITS | {"memory_bytes": 10**30})
    with pytest.raises(RewardError, match="this platform refuses a limit"):
        sandbox.run("pass")


@pytest.mark.parametrize("command", [("/nowhere/python",), (sys.executable, "-c", "pass")])
def test_worker_that_does_not_start_is_an_error(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter that is missing, or ends at once, is named; no folder stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sandbox_module, "COMMAND", command)
    with pytest.raises(RewardError, match="worker did not start"), Sandbox():
        pass
    assert list(tmp_path.iterdir()) == []


def test_interrupted_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a worker starts ends it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sandbox_module, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt), Sandbox():
        pass
    assert list(tmp_path.iterdir()) == []


# --- the worker's parts, in this process -----------------------------------------------------------------------------

LIMITS: dict[str, Any] = Limits(cpu_s=1.5).request()


def test_worker_ends_when_its_input_does(tmp_path: Path) -> None:
    """A worker whose trainer is gone kills its child, removes its folder and leaves."""
    root = tmp_path / "root"
    root.mkdir()
    # Not in isolated mode, so that coverage sees it.
    process = subprocess.Popen(
        [sys.executable, str(sandbox_module.WORKER), str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for program, reply in (("assert True", ["passed", ""]), ("open('x', 'w')", ["passed", ""]), ("1/0", None)):
        process.stdin.write(json.dumps({"program": program, "limits": LIMITS}).encode() + b"\n")
        process.stdin.flush()
        if program == "assert True":
            assert process.stdout.readline() == b'["ready", ""]\n'
        answer = json.loads(process.stdout.readline())
        assert answer == (reply or ["error", "ZeroDivisionError: division by zero at `1/0`"])
    process.stdin.write(json.dumps({"program": "import time; time.sleep(60)", "limits": LIMITS}).encode() + b"\n")
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()
    assert not root.exists()


@pytest.mark.parametrize(
    ("data", "wait_status", "expected"),
    [
        (b'T["passed", ""]\n', 0, ["passed", ""]),
        (b'T["failed", "why"]\n', None, ["failed", "why"]),
        (b'X["passed", ""]\n', 0, ["error", "ended with exit status 0 before its tests were through"]),
        (b'T["pass', 0, ["error", "ended with exit status 0 before its tests were through"]),
        (b"", 3 << 8, ["error", "ended with exit status 3 before its tests were through"]),
        (b"", int(signal.SIGSEGV), ["error", "ended by SIGSEGV before its tests were through"]),
        (b"", int(signal.SIGXCPU), ["timeout", "used more than 1.5 s of processor time"]),
        (b"", None, ["timeout", "still running after 50 s"]),
    ],
)
def test_verdict_needs_the_token(data: bytes, wait_status: int | None, expected: list[str]) -> None:
    """Without a whole line that starts with the run's token nothing passes."""
    assert worker.outcome(data, "T", wait_status, LIMITS) == expected


def test_guard_refuses_by_event(tmp_path: Path) -> None:
    """The audit hook lets reading and the folder's own files through, and refuses the rest."""
    guard = worker.make_guard(str(tmp_path))
    for event, arguments in (
        ("open", ("/etc/hostname", "r", os.O_RDONLY)),
        ("open", (str(tmp_path / "a"), "w", os.O_WRONLY)),
        ("open", (os.devnull, "w", os.O_WRONLY)),
        ("open", (7, "w", os.O_WRONLY)),
        ("open", ("/etc/hostname", "r", None)),
        ("os.rename", (str(tmp_path / "a"), str(tmp_path / "b"), -1, -1)),
        ("os.listdir", ("/",)),
        ("import", ("math", None)),
    ):
        guard(event, arguments)
    for event, arguments in (
        ("open", (str(tmp_path) + "-beside/a", "w", os.O_WRONLY)),
        ("open", (b"/a", "w", os.O_CREAT)),
        ("os.rename", (str(tmp_path / "a"), tmp_path.parent / "b", -1, -1)),
        ("socket.connect", ()),
        ("os.fork", ()),
    ):
        with pytest.raises(PermissionError):
            guard(event, arguments)


def test_limits_never_exceed_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tighter limit of the operating system stays; hard and soft limits are set together."""
    bounds: dict[int, tuple[int, int]] = {}
    timers: dict[int, float] = {}
    tight = {resource.RLIMIT_NOFILE: (10, 10)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tight.get(kind, (-1, resource.RLIM_INFINITY)))
    monkeypatch.setattr(resource, "setrlimit", bounds.__setitem__)
    monkeypatch.setattr(signal, "setitimer", timers.__setitem__)
    worker.set_limits(LIMITS)
    assert bounds == {
        resource.RLIMIT_CPU: (3, 4),
        resource.RLIMIT_AS: (512 << 20,) * 2,
        resource.RLIMIT_FSIZE: (1 << 20,) * 2,
        resource.RLIMIT_NOFILE: (10, 10),
        resource.RLIMIT_NPROC: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    assert timers == {signal.ITIMER_PROF: 1.5, signal.ITIMER_REAL: 51.0}


class LeftError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the child's life in this process, without what would bind it; gives what it wrote and its exit status."""

    def leave(status: int) -> None:
        raise LeftError(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "addaudithook", lambda _hook: None)
    monkeypatch.setattr(worker, "set_limits", lambda _limits: None)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.chdir(tmp_path)

    def run(program: str) -> tuple[bytes, int]:
        reading, writing = os.pipe()
        state = worker.random.getstate()
        try:
            with pytest.raises(LeftError) as left:
                worker.run_child(program, LIMITS, str(tmp_path), writing, "T")
            return os.read(reading, 4096), left.value.args[0]
        finally:
            worker.random.setstate(state)
            os.close(reading)
            os.close(writing)

    return run


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("x = 1", b'T["passed", ""]\n'),
        ("assert 0", b'T["failed", "AssertionError at `assert 0`"]\n'),
        ("raise SystemExit", b'T["error", "SystemExit at `raise SystemExit`"]\n'),
    ],
)
def test_child_writes_one_verdict(child: Any, program: str, expected: bytes) -> None:
    """The child writes its run's token and its verdict, then ends."""
    assert child(program)[0] == expected


def test_child_reports_a_limit_it_cannot_set(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused limit is told before the program runs."""

    def refuse(_limits: object) -> None:
        raise ValueError("no such limit")

    monkeypatch.setattr(worker, "set_limits", refuse)
    assert child("1/0")[0] == b'T["refused", "no such limit"]\n'


def test_flood_on_the_result_pipe_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than any verdict has end the reading."""
    monkeypatch.setattr(worker, "REPLY_BYTES", 8)
    result, flood = os.pipe()
    requests, keep = os.pipe()
    os.write(flood, b"x" * 30)
    assert worker.collect(result, requests, worker.time.monotonic() + 9) == (b"x" * 16, "closed")
    assert worker.collect(result, requests, 0.0) == (b"", "late")
    for descriptor in (result, flood, requests, keep):
        os.close(descriptor)
