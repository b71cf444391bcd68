"""A function in a fork of this process: begun, quiet, asked where it is, and ended."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any


def forked(answer: Callable[[], Any]) -> tuple[int, Connection]:
    """The process that a function runs in, and what receives its answer; nothing comes where it raises or dies."""
    receiver, sender = Pipe(duplex=False)
    process = os.fork()
    if process:
        sender.close()
        return process, receiver
    code = 1
    with suppress(BaseException):  # nothing of the child may run on as the parent
        receiver.close()
        sender.send(answer())
        sender.close()
        code = 0
    os._exit(code)


def quietly(stacks: IO[str]) -> None:
    """In a fork: no time limit and no trace of the parent's, nothing to read or print; SIGUSR1 writes its stacks."""
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    sys.settrace(None)


def end(process: int, receiver: Connection) -> None:
    """End a fork, whatever it does."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    receiver.close()
