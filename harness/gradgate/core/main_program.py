"""A program's own arguments and import path, while it runs in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def as_main(argv: Sequence[str], folder: str | None = None) -> Iterator[None]:
    """Let a block have another command line, and a folder first on the import path.

    `sys.modules["__main__"]` is nobody's business here: what a program registered with atexit or pickles later is still
    its own.

    Args:
        argv: what `sys.argv` is.
        folder: where the program's own modules are looked for first; None: where they are looked for anyway.
    """
    before = sys.argv, list(sys.path)
    sys.argv, sys.path[:] = list(argv), [*([folder] if folder else []), *sys.path]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before
