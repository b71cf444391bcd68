"""Ctrl-C: before there is anything to tell it ends the process at once, afterwards it is Python's KeyboardInterrupt.

So is a termination, as `timeout` and a CI service send it, where there are results to tell.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130


def ends_at_once() -> None:
    """From here on Ctrl-C says so and exits 130: a KeyboardInterrupt amid torch's import comes out as other errors."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and _in_main_thread():
        signal.signal(signal.SIGINT, _end)


def is_raised() -> None:
    """From here on Ctrl-C is KeyboardInterrupt again, where `ends_at_once` had changed it."""
    if signal.getsignal(signal.SIGINT) is _end and _in_main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def unwinding() -> Iterator[None]:
    """Let Ctrl-C, a termination and a hang-up unwind, so that what is known is told and nothing is left behind.

    A signal that is ignored stays so, as under nohup; a process that is forked within ends by it as usual.
    """
    owner = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    is_raised()
    heard = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in heard if _in_main_thread()}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(*_: Any) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
