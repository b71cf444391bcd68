"""Whether checks look for the line of what they found: not while changes of the trainer are tried, which only asks
whether they pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gradgate.checks.first_fault import wanted

_NAMING: ContextVar[bool] = ContextVar("lines are named", default=True)


def are_named() -> bool:
    """Whether a line is worth looking for."""
    return _NAMING.get() and wanted() is None


@contextmanager
def unnamed() -> Iterator[None]:
    """In the block checks look for no lines."""
    token = _NAMING.set(False)
    try:
        yield
    finally:
        _NAMING.reset(token)
