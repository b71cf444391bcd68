"""Priority: a comparison asks the kernel to run it ahead of others. It uses no more processor time, only sooner."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ask the kernel to leave this processor to the block; where it may not, the block runs all the same.

    A step that shares its core finds its caches emptied after each switch: measured on two cores with seven programs,
    that alone scatters a step's CPU time by 10 %. And what takes 6 s on an idle machine, from the first import to the
    first timed step, took 22 s there. Processes that the block starts have no such priority.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (AttributeError, OSError):
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)
