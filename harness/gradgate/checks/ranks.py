"""Several processes of a group, forked from this one: what each returned, raised, or was waiting for.

Forked, because a subject is built of functions that no pickle carries, and because torch is imported already. The
group meets in a file and talks over gloo on the loopback device.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.fsdp  # noqa: F401 - seconds, once, and not again in every process

from gradgate.checks.forks import end, forked, quietly
from gradgate.checks.raised import SubjectRaisedError, first_line
from gradgate.core.finding import Location
from gradgate.core.origin import is_own_code, line_of_file, origin

WORLD = 2
SECONDS = 150.0  # what takes milliseconds a step in one process, and a second to meet
STILL = 5.0  # seconds in which no process that is left, nor a child of one, computes: each waits for another
IDLE = 7  # ticks of 10 ms in that time, which threads that watch over a group may have
GRACE = 2.0  # seconds that a stack takes to be written

_FRAME = re.compile(r'^\s*File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


@dataclass(frozen=True)
class Rank:
    """How one process ended.

    Args:
        rank: which.
        value: what it returned.
        error: what it raised, in one line; empty where it raised nothing.
        place: the innermost line of the user's own code that the error went through.
        stack: where it was, innermost line last, once the time was over; empty where it had ended.
    """

    rank: int
    value: Any = None
    error: str = ""
    place: Location | None = None
    stack: str = ""


def together(
    work: Callable[[int], Any], folder: Path, *, world: int = WORLD, seconds: float | None = None
) -> list[Rank]:
    """Run a function as every rank of a new process group, each in a process of its own.

    Args:
        work: called with the rank; returns what a pickle carries.
        folder: of the caller's own, for the group's meeting place and the stacks.
        world: how many processes.
        seconds: until those that have not ended are asked where they are, and killed; None: `SECONDS`. Those that all
            stand still are asked after `STILL` seconds, where the system tells (Linux).

    Returns:
        One entry a rank, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    limit = SECONDS if seconds is None else seconds
    started = [forked(partial(_child, work, folder, rank, world, limit)) for rank in range(world)]
    processes = {receiver: (rank, process) for rank, (process, receiver) in enumerate(started)}
    ended = _collect(processes, limit)
    late = [rank for rank in range(world) if rank not in ended]
    stacks = _stacks({rank: started[rank][0] for rank in late}, folder)
    for process, receiver in started:
        end(process, receiver)
    return [ended.get(rank) or Rank(rank, stack=stacks[rank]) for rank in range(world)]


def told(ranks: Sequence[Rank]) -> str:
    """What went wrong, every rank in turn; empty where nothing did."""
    parts = [f"rank {each.rank} waits at\n{each.stack}" for each in ranks if each.stack]
    return "\n".join([f"rank {each.rank} raised {each.error}" for each in ranks if each.error] + parts)


def first_cause(ranks: Sequence[Rank]) -> str:
    """The error that is not merely another rank's absence, where there is one."""
    cause = _cause(ranks)
    return f"rank {cause.rank} raised {cause.error}" if cause else ""


def blamed(ranks: Sequence[Rank]) -> Location | None:
    """The line that went wrong: where the first cause was raised, or where the lowest rank that waits took another way
    than the next one."""
    cause = _cause(ranks)
    if cause is not None:
        return cause.place
    stacks = [_FRAME.findall(each.stack) for each in ranks if each.stack]
    if not stacks:
        return None
    others = [frames for frames in stacks[1:] if frames != stacks[0]]
    way, other = stacks[0], others[0] if others else []
    parting = next((i for i, (one, two) in enumerate(zip(way, other, strict=False)) if one != two), len(way) - 1)
    own = [frame for frame in way[: parting + 1] if is_own_code(frame[0])]
    if not own:
        return None
    file, line, function = own[-1]
    return line_of_file(file, int(line), function)


def _cause(ranks: Sequence[Rank]) -> Rank | None:
    errors = [each for each in ranks if each.error]
    own = [each for each in errors if "closed by peer" not in each.error and "gloo" not in each.error.lower()]
    return next(iter(own or errors), None)


def _child(work: Callable[[int], Any], folder: Path, rank: int, world: int, limit: float) -> Rank:
    quietly((folder / f"stack-{rank}").open("w"))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        meeting = f"file://{folder / 'store'}"
        timeout = timedelta(seconds=2 * limit)  # later than the parent asks
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=timeout)
        return Rank(rank, work(rank))
    except BaseException as error:  # a child has nowhere else to report
        place = origin(error.error if isinstance(error, SubjectRaisedError) else error)
        at = f" ({Path(place.file).name}:{place.line})" if place else ""
        return Rank(rank, error=f"{type(error).__name__}: {first_line(error)}{at}", place=place)


def _collect(waiting: dict[Connection, tuple[int, int]], limit: float) -> dict[int, Rank]:
    """The ends of ranks, until the time is over or all that are left wait; `waiting` has the rank and the process."""
    ended: dict[int, Rank] = {}
    moved = time.monotonic()
    end, seen = moved + limit, 0
    while waiting and (left := end - time.monotonic()) > 0:
        for ready in wait(list(waiting), timeout=min(left, 1.0)):
            assert isinstance(ready, Connection)  # noqa: S101 - nothing else was given
            rank, _ = waiting.pop(ready)
            try:
                ended[rank] = ready.recv()
            except EOFError:
                ended[rank] = Rank(rank, error="died without a word")
        now = _activity([process for _, process in waiting.values()])
        if now is None or not 0 <= now - seen <= IDLE:
            moved, seen = time.monotonic(), now or 0
        elif time.monotonic() - moved > STILL:
            break
    return ended


def _activity(processes: Sequence[int]) -> int | None:
    """Ticks of processor time that these processes and their children had; None where one computes now or waits for a
    disk, or where nothing is known."""
    ticks = 0
    for process in chain(processes, *map(_children, processes)):
        try:
            words = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return None
        if words[0] in "RD":
            return None
        ticks += sum(map(int, words[11:15]))
    return ticks


def _children(process: int) -> list[int]:
    """Processes that its main thread started, as loaders' workers are, and theirs."""
    try:
        own = [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return [*own, *chain.from_iterable(map(_children, own))]


def _stacks(late: Mapping[int, int], folder: Path) -> dict[int, str]:
    """Ask processes for the stacks of their threads, and read them once they are there."""
    for process in late.values():
        os.kill(process, signal.SIGUSR1)
    end = time.monotonic() + GRACE
    files = {rank: folder / f"stack-{rank}" for rank in late}
    while any(not file.stat().st_size for file in files.values()) and time.monotonic() < end:
        time.sleep(0.01)
    return {rank: _main_thread(file.read_text()) for rank, file in files.items()}


def _main_thread(text: str) -> str:
    """The main thread of a dump, outermost line first, without the frames that are the harness's own start."""
    last = text.rpartition("(most recent call first):")[2]
    lines = [line.strip() for line in last.splitlines() if line.strip().startswith("File")]
    own = next((i for i, line in enumerate(lines) if __file__ in line), len(lines))
    return "\n".join(f"  {line}" for line in reversed(lines[:own])) or "  (no stack)"
