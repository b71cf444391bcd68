"""A time limit for a check: what hangs is stopped where it hangs, and its line is the finding."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gradgate.core.options import Profile

LIMITS: Mapping[Profile, float] = {"quick": 180.0, "pr": 600.0, "nightly": 3600.0}
_AGAIN = 5.0  # seconds after which it is raised again, where something caught it
_MOST, _NEXT = 4.0, 0.05  # times the limit that a starved check may take; seconds that are not worth another timer


class TimeOverError(BaseException):
    """A check has taken longer than it may. No Exception, so that the subject's own handlers let it pass.

    Args:
        limit: seconds that it had.
    """

    def __init__(self, limit: float) -> None:
        super().__init__(f"took longer than {limit:g} s")
        self.limit = limit


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeOverError in the block once its time is over.

    It is raised between two lines of Python; a call that never comes back from C is not stopped. Where the platform has
    no timers, outside the main thread, or where somebody else has set the timer, there is no limit. Seconds in which
    the thread was ready and had no processor, as on a loaded machine, are given back, `_MOST` times the limit at most.

    Args:
        seconds: that the block may take.

    Raises:
        TimeOverError: out of whatever line runs then.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    running, start, ready = True, time.monotonic(), _waited()

    def over(_number: int, _frame: FrameType | None) -> None:
        left = min(seconds + _waited() - ready, _MOST * seconds) - (time.monotonic() - start)
        if running and left > _NEXT:
            signal.setitimer(signal.ITIMER_REAL, left, _AGAIN)
        elif running:
            raise TimeOverError(seconds)

    before = signal.signal(signal.SIGALRM, over)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)  # inside: the shortest limit is over before the next line
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _waited() -> float:
    """Seconds that this thread could have run and had no processor, so far; 0 where the kernel does not say.

    Read anew each time: a file that was opened before a fork tells of the process that opened it.
    Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat, the second field, in nanoseconds.
    """
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
