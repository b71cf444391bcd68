"""A pool of processes, one a task, each with a time limit; what hangs or dies is a result, not an end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from gradgate.faults.worker import Report, Task, work

_GRACE = 5.0  # seconds between a report and the end of its process


@dataclass(slots=True)
class _Running:
    key: int
    process: Any
    pipe: Any
    deadline: float


def run(
    tasks: Sequence[Task], *, jobs: int, timeout: float, function: Callable[[Task, Any], None] = work
) -> Iterator[tuple[int, Report | str]]:
    """Run tasks, as many at a time as there are jobs.

    Args:
        tasks: one a process; processes are forked where the system can, so that torch is imported once.
        jobs: most processes at a time.
        timeout: seconds for each.
        function: what a process does.

    Yields:
        The task's number and its report, in the order of their ends, or why there is none: `hung`, `crashed (exit 1)`.
        When the iterator is left, no process of it remains.
    """
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    waiting = list(enumerate(tasks))[::-1]
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(context, *waiting.pop(), timeout, function))
            pause = max(0.0, min(one.deadline for one in running) - time.monotonic())
            wait([one.pipe for one in running], timeout=pause)
            for one in list(running):
                report = _outcome(one)
                if report is not None:
                    running.remove(one)
                    yield one.key, report
    finally:
        for one in running:
            _end(one)


def _start(context: Any, key: int, task: Task, timeout: float, function: Callable[[Task, Any], None]) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(task, theirs))
    process.start()
    theirs.close()
    return _Running(key, process, ours, time.monotonic() + timeout)


def _outcome(one: _Running) -> Report | str | None:
    if one.pipe.poll():
        try:
            report: Report | str = one.pipe.recv()
        except EOFError:
            one.process.join()
            report = f"crashed (exit {one.process.exitcode})"
        one.process.join(_GRACE)
        _end(one)
        return report
    if time.monotonic() >= one.deadline:
        _end(one)
        return "hung"
    return None


def _end(one: _Running) -> None:
    """End the process and what it started."""
    with contextlib.suppress(OSError):
        os.killpg(one.process.pid, signal.SIGKILL)  # it leads a group of its own
    one.process.kill()
    one.process.join()
    one.pipe.close()
