"""One thread that copies while the step runs its forward."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook


class Overlap:
    """A piece of work that runs beside the step, and is done before an optimizer of the same thread writes."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0
        self._work: Future[None] | None = None
        self._hook: Any = None
        self._thread = 0

    def start(self, work: Callable[[], None]) -> None:
        """Begin it."""
        if self._pool is None or self._process != os.getpid():  # a fork has no threads
            self._pool, self._process = ThreadPoolExecutor(1, "gradgate-snapshot"), os.getpid()
        self._thread = threading.get_ident()
        self._hook = register_optimizer_step_pre_hook(self._before_step)
        self._work = self._pool.submit(work)

    def join(self) -> None:
        """Wait until it is done."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self._work is not None:
            work, self._work = self._work, None
            work.result()

    def _before_step(self, *_: Any) -> None:
        if self._work is not None and threading.get_ident() == self._thread:
            work, self._work = self._work, None
            work.result()
