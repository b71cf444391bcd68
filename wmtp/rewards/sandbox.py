"""Sandbox: runs programs in a limited process of their own, never in the trainer's.

A worker process (`worker.py`) forks one child a program: with limits on processor time, wall time, memory, files and
processes, in an empty folder, without environment, its output thrown away, under an audit hook. This guards against
accidents (a program that hangs, fills memory, exits early, writes files). It is no security boundary: run code that may
be hostile in a container or a virtual machine.

The verdict is reproducible where the program is: string hashes and `random` are seeded alike in each child.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from importlib.util import find_spec
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Literal, Self

from wmtp.errors import RewardError

WORKER = Path(__file__).with_name("worker.py")
# No site packages, no path of the caller's, no cached bytecode; the environment is given whole below.
COMMAND = (sys.executable, "-s", "-S", "-P", "-B", str(WORKER))
# What an interpreter built against shared libraries in odd places may need to start; children do not see it.
LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
GRACE_S = 30.0  # a worker answers at once after the wall limit; a machine under load may need longer
CLOSE_S = 5.0
MEBIBYTE = 1 << 20
REPLY_BYTES = 65536  # a reply is shorter than a pipe writes at once, so one read has all of it
READY = b'["ready", ""]\n'

Status = Literal["passed", "failed", "error", "timeout"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program under test may use.

    Args:
        cpu_s: processor time in seconds. The limit that decides: it does not depend on the machine's load.
        wall_s: time on the clock in seconds, for programs that sleep.
        memory_mib: address space in MiB, the interpreter's own included.
        file_mib: size of one file in MiB.
        open_files: file descriptors open at a time.

    Raises:
        RewardError: a limit is not above 0, or too small for an interpreter.
    """

    cpu_s: float = 10.0
    wall_s: float = 50.0
    memory_mib: int = 512
    file_mib: int = 1
    open_files: int = 64

    def __post_init__(self) -> None:
        floors = {"cpu_s": 0.0, "wall_s": 0.0, "memory_mib": 63, "file_mib": 0, "open_files": 15}
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not floors[limit.name] < value < float("inf"):
                raise RewardError(f"limit {limit.name} must be above {floors[limit.name]}, got {value}")

    def request(self) -> dict[str, float]:
        """The worker's form of the limits."""
        return {
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "memory_bytes": self.memory_mib * MEBIBYTE,
            "file_bytes": self.file_mib * MEBIBYTE,
            "open_files": self.open_files,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    Args:
        status: passed; failed (an assertion did not hold); error (anything else, an early exit included); timeout.
        message: why, in one line; empty where passed.
    """

    status: Status
    message: str = ""


DEFAULT_LIMITS = Limits()


class Sandbox:
    """One worker process; a context manager. Leaving it ends the worker, its child and its folder.

    Raises:
        RewardError: the platform cannot limit a process, or the worker does not start.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._root = ""
        self._request = b""
        self._deadline = 0.0
        self._tries_left = 0

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def run(self, program: str, *, limits: Limits = DEFAULT_LIMITS) -> Outcome:
        """Run one program and wait for it.

        Args:
            program: Python source; it passes if it reaches its end without an exception.
            limits: what it may use.

        Returns:
            Its outcome.

        Raises:
            RewardError: the platform refuses one of the limits.
        """
        self.start(program, limits)
        while (outcome := self.poll()) is None:
            wait([self.reply_descriptor], self.left_s())
        return outcome

    @property
    def reply_descriptor(self) -> int:
        """The file descriptor to wait on for an outcome."""
        return self._pipes()[1].fileno()

    def left_s(self) -> float:
        """Seconds until the worker counts as dead."""
        return max(self._deadline - time.monotonic(), 0.0)

    def start(self, program: str, limits: Limits) -> None:
        """Hand a program to the worker, without waiting."""
        self._request = json.dumps({"program": program, "limits": limits.request()}).encode() + b"\n"
        self._tries_left = 1
        self._send(limits.wall_s)

    def poll(self) -> Outcome | None:
        """The outcome, or None while there is none. A worker that died or hangs is started anew, once a program."""
        late = self.left_s() == 0
        if not late and not wait([self.reply_descriptor], 0):
            return None
        line = b"" if late else os.read(self.reply_descriptor, REPLY_BYTES)
        if line.endswith(b"\n"):
            status, message = json.loads(line)
            if status == "refused":
                raise RewardError(f"this platform refuses a limit that programs under test must run with: {message}")
            return Outcome(status, message)
        self._close()
        self._open()
        if not self._tries_left:
            return Outcome("error", "its worker process died twice")
        self._tries_left -= 1
        self._send(json.loads(self._request)["limits"]["wall_s"])
        return None

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Where requests go, and where replies come from."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("a Sandbox is used inside its with block")
        return process.stdin, process.stdout

    def _send(self, wall_s: float) -> None:
        self._deadline = time.monotonic() + wall_s + GRACE_S
        with suppress(BrokenPipeError):  # a dead worker: `poll` sees the end of its replies
            self._pipes()[0].write(self._request)

    def _open(self) -> None:
        if not hasattr(os, "fork") or find_spec("resource") is None:
            raise RewardError(
                f"a verifiable reward runs programs under limits, which need fork() and the module 'resource'; "
                f"{sys.platform} lacks them: choose critic.reward: model or reference"
            )
        environment = {name: os.environ[name] for name in LOADER_VARIABLES if name in os.environ}
        try:
            self._root = tempfile.mkdtemp(prefix="wmtp-sandbox-")
            self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and file
                [*COMMAND, self._root],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd=self._root,
                env={"PYTHONHASHSEED": "0", **environment},
                start_new_session=True,  # Ctrl-C reaches the trainer alone, which then ends the worker
            )
            descriptor = self.reply_descriptor
            ready = wait([descriptor], GRACE_S) and os.read(descriptor, REPLY_BYTES) == READY
        except OSError as error:
            self._close()
            raise RewardError(f"the sandbox's worker did not start: {error}") from error
        except BaseException:
            self._close()
            raise
        if not ready:
            self._close()
            raise RewardError(f"the sandbox's worker did not start: {' '.join(COMMAND)}")

    def _close(self) -> None:
        """End the worker: at the end of its input it kills its child and leaves; else it is killed."""
        process, self._process = self._process, None
        try:
            if process is not None and process.stdin is not None and process.stdout is not None:
                process.stdin.close()
                process.stdout.close()
                process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process is not None:
                process.kill()
                process.wait()
            shutil.rmtree(self._root, ignore_errors=True)


def run_programs(
    programs: Sequence[str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Run programs, several at a time.

    Args:
        programs: Python sources; each passes if it reaches its end without an exception.
        limits: what each may use.
        workers: how many run at a time, at least 1.
        progress: called after each program with the number that is done.

    Returns:
        Outcomes in the order of `programs`.

    Raises:
        RewardError: `workers` is below 1, or the platform cannot limit a process.
    """
    if workers < 1:
        raise RewardError(f"workers must be at least 1, got {workers}")
    outcomes: dict[int, Outcome] = {}
    waiting = iter(enumerate(programs))
    busy: dict[Sandbox, int] = {}
    with ExitStack() as stack:

        def give_next(sandbox: Sandbox) -> None:
            index, program = next(waiting, (-1, ""))
            if index >= 0:
                sandbox.start(program, limits)
                busy[sandbox] = index

        for _ in range(min(workers, len(programs))):
            give_next(stack.enter_context(Sandbox()))
        while busy:
            wait([sandbox.reply_descriptor for sandbox in busy], min(sandbox.left_s() for sandbox in busy))
            for sandbox in list(busy):
                if (outcome := sandbox.poll()) is not None:
                    outcomes[busy.pop(sandbox)] = outcome
                    if progress is not None:
                        progress(len(outcomes))
                    give_next(sandbox)
    return [outcomes[index] for index in range(len(programs))]
