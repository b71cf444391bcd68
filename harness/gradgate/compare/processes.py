"""Processes: workers started, listened to and ended, whatever happens to them or to us."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from typing import Any, TextIO

from gradgate.compare.job import Job
from gradgate.core.errors import GradgateError

TAIL = 400  # characters of a dead worker's own output that are worth showing
# Memory that a step frees stays with the process. Else the kernel hands out, zeroes and takes back pages at each step:
# measured at 10.6 % scatter of a loaded machine's steps against 7.7 % without. glibc only; others ignore it.
STEADY_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


class DiedError(Exception):
    """A worker ended without an answer. `args`: how, and the end of its output."""


class Worker:
    """A running worker."""

    def __init__(self, zygote: Zygote, pid: int, job: FileIO, answers: TextIO, output: TextIO) -> None:
        self.pid = pid
        self._zygote, self._job, self._answers, self._output = zygote, job, answers, output
        self._code: int | None = None

    def send(self, text: str) -> None:
        """Write it a line; where it is dead already, the end of its answers says so."""
        with suppress(BrokenPipeError):
            self._job.write(f"{text}\n".encode())

    def answer(self, on_progress: Callable[[str], None]) -> dict[str, Any]:
        """Its next answer.

        Args:
            on_progress: told what it does until then.

        Raises:
            DiedError: it was killed or crashed.
            GradgateError: it says that it was used wrongly.
        """
        for line in self._answers:
            message: dict[str, Any] = json.loads(line)
            if "loaded" in message:
                self._zygote.load(message["loaded"])
            elif "progress" in message:
                on_progress(message["progress"])
            elif "usage" in message:
                raise GradgateError(message["usage"])
            else:
                return message
        raise DiedError(_ending(self._ended()), _tail(self._output))

    def kill(self) -> None:
        """End it and what it started; it holds nothing that would have to be saved."""
        for kill in (os.killpg, os.kill):  # it may not have a group of its own yet
            with suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)
        with suppress(DiedError):
            self._ended()

    def _ended(self) -> int:
        if self._code is None:
            self._code = self._zygote.reap(self.pid)
        return self._code


class Zygote:
    """What workers are forked from, a process that has imported torch; see `zygote`."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, output: TextIO) -> None:
        self._process, self._channel, self._output = process, channel, output
        self._owes = False  # an answer to `load`

    @contextmanager
    def started(self, job: Job, core: int | None = None) -> Iterator[Worker]:
        """A worker at its job for the block; afterwards it is gone, and what it started with it.

        Args:
            job: what it is to do.
            core: the processor that it is bound to; None: any.

        Raises:
            DiedError: there is nothing left to fork it from.
        """
        with ExitStack() as stack:
            output = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            (reading, to_worker), (answers, writing) = os.pipe(), os.pipe()
            channels = stack.enter_context(FileIO(to_worker, "w")), stack.enter_context(os.fdopen(answers))
            try:
                pid = self._ask("fork", [reading, writing, output.fileno()])
            finally:
                os.close(reading)
                os.close(writing)
            worker = Worker(self, pid, *channels, output)
            stack.callback(worker.kill)
            if core is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(pid, {core})
            worker.send(job.dumps())
            yield worker

    def load(self, module: str) -> None:
        """Have it import a module of torch's, for later workers, while the present one goes on."""
        self._send(f"load {module}")
        self._owes = True

    def reap(self, pid: int) -> int:
        """How a worker ended; waits until it has."""
        return self._ask(f"reap {pid}")

    def _ask(self, request: str, files: list[int] | None = None) -> int:
        self._send(request, files)
        return self._receive()

    def _send(self, request: str, files: list[int] | None = None) -> None:
        if self._owes:
            self._owes = False
            self._receive()
        with suppress(BrokenPipeError):
            socket.send_fds(self._channel, [request.encode()], files or [])

    def _receive(self) -> int:
        reply = self._channel.recv(64)
        if not reply:
            raise DiedError(_ending(self._process.wait()), _tail(self._output))
        return int(reply)


@contextmanager
def zygote() -> Iterator[Zygote]:
    """What the block's workers are forked from; it imports torch meanwhile. Afterwards it is gone, and they are."""
    ours, its = socket.socketpair()
    with ours, tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(  # noqa: S603 - this very interpreter
            [sys.executable, "-P", "-m", "gradgate.compare.zygote", str(its.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[its.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), **STEADY_MALLOC},
            start_new_session=True,  # Ctrl-C is for us alone
        )
        its.close()
        try:
            yield Zygote(process, ours, output)
        finally:
            process.kill()
            process.wait()


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tail(output: TextIO) -> str:
    output.seek(0)
    return output.read()[-TAIL:].strip()
