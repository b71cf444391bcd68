"""Scratch: temporary files of the trainer that is checked go when the command ends."""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def scratch() -> Iterator[None]:
    """Let temporary files of this process, and of those that it starts, lie in one folder, removed behind the block.

    An adapter builds its run some hundred times, and each may call `mkdtemp`; workers are killed with theirs open. What
    torch has compiled stays where torch keeps it.
    """
    inductor = Path(tempfile.gettempdir(), f"torchinductor_{_user()}")  # where torch has it
    variables = {_INDUCTOR: os.environ.get(_INDUCTOR), "TMPDIR": os.environ.get("TMPDIR")}
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="gradgate-scratch-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault(_INDUCTOR, str(inductor))
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            for name, value in variables.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _user() -> str:
    with contextlib.suppress(KeyError, ImportError, OSError):
        return getpass.getuser()
    return f"uid_{os.getuid()}"
