"""Worker processes: items of work, each with a time limit; what hangs or dies is an answer, not an end."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from gradgate.core import interrupt

_GRACE = 2.0  # seconds in which a worker that is over its time may still write its stack, or end
_UNASKED = 8  # most workers that are started unasked: each holds the trainer once more

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Lost:
    """An item that has no answer.

    Args:
        reason: `hung`, or `crashed (exit 1)` or `crashed (SIGSEGV)`.
        stack: Python's stacks at the end as faulthandler writes them; empty where there was no time for it.
    """

    reason: str
    stack: str = ""


@dataclass(slots=True)
class _Worker(Generic[Item]):
    process: Any
    pipe: Any
    stacks: Path
    group: deque[tuple[int, Item]] = field(default_factory=deque)
    current: int | None = None
    deadline: float = 0.0


def usable_cores() -> int:
    """How many workers this machine has cores for; 0 where processes cannot be forked safely."""
    if sys.platform != "linux":
        return 0
    return min(len(os.sched_getaffinity(0)), _UNASKED)


def run(
    groups: Iterable[Sequence[Item]],
    function: Callable[[Item], Answer],
    *,
    jobs: int,
    timeout: float | Callable[[Item], float],
    fresh: bool = False,
    on_start: Callable[[Item], None] = lambda _: None,
) -> Iterator[tuple[int, Answer | Lost]]:
    """Answer every item, as many at a time as there are jobs.

    Args:
        groups: items that go to one worker, one after the other, because they share what is kept in a process. The next
            group is asked for when there is a worker for it, so that answers can decide what is asked.
        function: item -> answer. Processes are forked where the system can, so that only answers need be pickled.
        jobs: most processes at a time.
        timeout: seconds for each item, or item -> seconds; a worker that takes longer is killed.
        fresh: a new process for each group.
        on_start: called here when an item is handed out.

    Yields:
        The item's number, counted through all groups, and its answer, in the order of their ends. When the iterator is
        left, no process of it remains.
    """
    interrupt.is_raised()  # from here on there are processes to end
    numbers, limit = count(), timeout if callable(timeout) else _Same(timeout)
    new = (deque((next(numbers), item) for item in group) for group in groups if group)
    left: deque[deque[tuple[int, Item]]] = deque()  # by workers that were lost
    workers: list[_Worker[Item]] = []
    with tempfile.TemporaryDirectory(prefix="gradgate-workers-", ignore_cleanup_errors=True) as folder:
        try:
            while True:
                _hire(workers, left, new, jobs, lambda: _start(function, limit, workers, Path(folder)))
                if not workers:
                    return
                for worker in [one for one in workers if one.current is None]:
                    _hand_out(worker, limit, on_start)
                pause = max(0.0, min(one.deadline for one in workers) - time.monotonic())
                wait([one.pipe for one in workers], timeout=pause)
                for worker in list(workers):
                    number, answer = worker.current, _answer(worker)
                    if answer is None or number is None:
                        continue
                    if isinstance(answer[0], Lost):
                        left.extend([worker.group] if worker.group else [])
                    if isinstance(answer[0], Lost) or (fresh and not worker.group):
                        workers.remove(worker)
                        _end(worker)
                    yield number, answer[0]
        finally:
            for worker in workers:
                _end(worker)


@dataclass(frozen=True, slots=True)
class _Same:
    """The same time for every item; a class, since it is sent to processes that are not forked."""

    seconds: float

    def __call__(self, _: Any) -> float:
        return self.seconds


def _hire(
    workers: list[_Worker[Item]],
    left: deque[deque[tuple[int, Item]]],
    new: Iterator[deque[tuple[int, Item]]],
    jobs: int,
    start: Callable[[], _Worker[Item]],
) -> None:
    """Give every idle worker the next group; end those for whom there is none, start more where there are more."""

    def following() -> deque[tuple[int, Item]] | None:
        return left.popleft() if left else next(new, None)

    for worker in [one for one in workers if one.current is None and not one.group]:
        group = following()
        if group:
            worker.group = group
        else:
            workers.remove(worker)
            _end(worker)
    while len(workers) < jobs and (group := following()):
        worker = start()
        worker.group = group
        workers.append(worker)


def _start(
    function: Callable[[Item], Any], limit: Callable[[Item], float], others: Sequence[_Worker[Item]], folder: Path
) -> _Worker[Item]:
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    stacks = folder / f"{time.monotonic_ns()}"
    foreign = [ours, *(other.pipe for other in others)] if method == "fork" else []
    # In a worker's own worker: the fork of a process with a watchdog waits for it, and its thread was not forked along.
    faulthandler.cancel_dump_traceback_later()
    worker: _Worker[Item] = _Worker(
        context.Process(target=_serve, args=(function, theirs, foreign, stacks, limit)), ours, stacks
    )
    try:
        with _uninterrupted():
            worker.process.start()
    except KeyboardInterrupt:  # it came meanwhile: the worker is started, and nobody else knows of it
        _end(worker)
        raise
    finally:
        theirs.close()
    return worker


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C comes behind the block: in the hooks that Python runs at a fork, the interrupt is printed and lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    function: Callable[[Any], Any], pipe: Any, foreign: Sequence[Any], stacks: Path, limit: Callable[[Any], float]
) -> None:
    """The worker's main function: it leads a process group of its own, and ends when the other side does."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides
    for ending in (signal.SIGTERM, signal.SIGHUP):  # nor may it unwind as who started it does
        signal.signal(ending, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what it starts itself may want to hear it
    for end in foreign:
        end.close()
    # A thread of the parent may have held a stream's lock when the process was forked.
    sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))  # noqa: SIM115
    with stacks.open("w") as file:
        faulthandler.enable(file)
        while True:
            try:
                item = pipe.recv()
            except EOFError:
                return
            faulthandler.dump_traceback_later(limit(item), file=file)
            answer = function(item)
            faulthandler.cancel_dump_traceback_later()
            pipe.send(answer)


def _hand_out(worker: _Worker[Item], limit: Callable[[Item], float], on_start: Callable[[Item], None]) -> None:
    worker.current, item = worker.group.popleft()
    on_start(item)
    worker.deadline = time.monotonic() + limit(item) + _GRACE
    with contextlib.suppress(OSError):  # it is dead: the answer says so
        worker.pipe.send(item)


def _answer(worker: _Worker[Any]) -> tuple[Any] | None:
    """The answer of a worker, in a tuple; None while there is none."""
    if worker.pipe.poll():
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(_GRACE)
            return (Lost(f"crashed ({_how(worker.process.exitcode)})", _stack(worker)),)
        worker.current = None
        return (answer,)
    if time.monotonic() >= worker.deadline:
        return (Lost("hung", _stack(worker)),)
    return None


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit {code}"
    return signal.Signals(-code).name


def _stack(worker: _Worker[Any]) -> str:
    return worker.stacks.read_text(errors="replace") if worker.stacks.exists() else ""


def _end(worker: _Worker[Any]) -> None:
    """End the process and what it started."""
    with contextlib.suppress(OSError):
        os.killpg(worker.process.pid, signal.SIGKILL)  # it leads a group of its own
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
