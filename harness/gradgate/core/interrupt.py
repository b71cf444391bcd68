"""Ctrl-C: before there is anything to tell it ends the process at once, afterwards it is Python's KeyboardInterrupt."""

from __future__ import annotations

import os
import signal
import threading
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


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(*_: Any) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
