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
from typing import Any

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


def ask(job: Job, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """Run one worker to its answer.

    Args:
        job: what it is to do.
        on_progress: told what it does.

    Returns:
        Its answer.

    Raises:
        DiedError: it was killed or crashed.
        GradgateError: it says that it was used wrongly.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as output, _started(output) as (process, answers):
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # where it is dead already, the end of its answers says so
            process.stdin.write(job.dumps())
            process.stdin.close()
        for line in answers:
            message: dict[str, Any] = json.loads(line)
            if "progress" in message:
                on_progress(message["progress"])
                continue
            if "usage" in message:
                raise GradgateError(message["usage"])
            return message
        raise DiedError(_ending(process.wait()), _tail(output))


@contextmanager
def _started(output: Any) -> Iterator[tuple[subprocess.Popen[str], Any]]:
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
    if process.stdin:
        process.stdin.close()


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tail(output: Any) -> str:
    output.seek(0)
    return str(output.read())[-TAIL:].strip()
