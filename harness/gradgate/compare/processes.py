"""Processes: workers started, listened to and ended, whatever happens to them or to us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

    def __init__(self, process: subprocess.Popen[str], answers: TextIO, output: TextIO) -> None:
        self._process, self._answers, self._output = process, answers, output

    def send(self, text: str) -> None:
        """Write it a line; where it is dead already, the end of its answers says so."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):
            self._process.stdin.write(text + "\n")
            self._process.stdin.flush()

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
            if "progress" in message:
                on_progress(message["progress"])
                continue
            if "usage" in message:
                raise GradgateError(message["usage"])
            return message
        raise DiedError(_ending(self._process.wait()), _tail(self._output))


@contextmanager
def started(job: Job, core: int | None = None) -> Iterator[Worker]:
    """A worker at its job for the block; afterwards it is gone, and what it started with it.

    Args:
        job: what it is to do.
        core: the processor that it is bound to; None: any.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as output, _process(output) as (process, answers):
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {core})
        worker = Worker(process, answers, output)
        worker.send(job.dumps())
        yield worker


@contextmanager
def _process(output: TextIO) -> Iterator[tuple[subprocess.Popen[str], TextIO]]:
    reading, writing = os.pipe()
    with os.fdopen(reading) as answers:
        command = [sys.executable, "-P", "-m", "gradgate.compare.worker", str(writing)]
        process = subprocess.Popen(  # noqa: S603 - this very interpreter
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), **STEADY_MALLOC},
            start_new_session=True,  # what a side starts ends with it
        )
        os.close(writing)
        try:
            yield process, answers
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a worker and what it started; it holds nothing that would have to be saved."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with suppress(BrokenPipeError):
        if process.stdin:
            process.stdin.close()


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tail(output: TextIO) -> str:
    output.seek(0)
    return output.read()[-TAIL:].strip()
