"""What a process reads: the files that Python opened, and whether anything left the process."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

# What other processes read, and what the network tells, is not seen.
PROCESSES = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system")
_NETWORK = ("socket.connect", "socket.bind")


@dataclass
class Reads:
    """What was read; by this process, and in its forks each by itself.

    Attributes:
        files: opened to be read, absolute.
        folders: listed, absolute, those aside that an import looked through.
        outside: events by which something could be learnt elsewhere: another process, the network.
        since: when it was made, in seconds as files are dated.
    """

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.time)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event. https://docs.python.org/3/library/audit_events.html"""
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
                self.files.add(os.path.abspath(path))  # noqa: PTH100 - a link may be turned
        elif event in ("os.listdir", "os.scandir"):
            if isinstance(arguments[0], str | None) and not _is_import(sys._getframe(1)):
                self.folders.add(os.path.abspath(arguments[0] or "."))  # noqa: PTH100
        elif event in PROCESSES or event in _NETWORK:
            self.outside.add(event)


def listen() -> Reads:
    """What this process reads from now on; for good, since Python takes no audit hook back."""
    reads = Reads()
    sys.addaudithook(reads.hear)
    return reads


def _is_import(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib")
