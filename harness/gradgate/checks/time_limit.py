"""A time limit for a check: what hangs is stopped where it hangs, and its line is the finding."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from gradgate.core.options import Profile

LIMITS: Mapping[Profile, float] = {"quick": 180.0, "pr": 600.0, "nightly": 3600.0}
_AGAIN = 5.0  # seconds after which it is raised again, where something caught it


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
    no timers, outside the main thread, or where somebody else has set the timer, there is no limit.

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

    running = True

    def over(_number: int, _frame: FrameType | None) -> None:
        if running:
            raise TimeOverError(seconds)

    before = signal.signal(signal.SIGALRM, over)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)  # inside: the shortest limit is over before the next line
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
