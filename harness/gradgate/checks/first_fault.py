"""One fault is enough: a check that is asked again and again ends at the first, and looks where it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class FirstFaultError(Exception):
    """A fault was found where one is all that is asked for."""


@dataclass
class FirstFault:
    """What showed a fault first.

    Args:
        detail: of the finding that is asked for again.
        call: a formula on its arguments; None: no fault was noted, or one of a gradient, which an answer does not show.
        answer: None: the formula raised.
    """

    detail: Mapping[str, Any] = field(default_factory=dict)
    call: Callable[[], Tensor] | None = None
    answer: Tensor | None = None

    def note(self, call: Callable[[], Tensor]) -> None:
        """Keep a call that shows a fault, and what it answers."""
        self.call, self.answer = call, _answer(call)

    def is_as_before(self) -> bool:
        """Whether the formula still answers that call bit for bit as it did: then the fault is there still."""
        if self.call is None:
            return False
        answer = _answer(self.call)
        if answer is None or self.answer is None:
            return answer is self.answer
        if answer.dtype != self.answer.dtype or answer.shape != self.answer.shape:
            return False
        return bool(((answer == self.answer) | (answer.isnan() & self.answer.isnan())).all())


_WANTED: ContextVar[FirstFault | None] = ContextVar("first fault only", default=None)


@contextmanager
def first_fault_only(detail: Mapping[str, Any] | None = None) -> Iterator[FirstFault]:
    """In the block checks end at their first fault, so that many trials are cheap.

    Args:
        detail: of the finding that is asked for again; a check may look at nothing else.
    """
    first = FirstFault(detail or {})
    token = _WANTED.set(first)
    try:
        yield first
    finally:
        _WANTED.reset(token)


def wanted() -> FirstFault | None:
    """What one fault is enough for; None: a check is to find them all."""
    return _WANTED.get()


def _answer(call: Callable[[], Tensor]) -> Tensor | None:
    try:
        return call()
    except Exception:  # of the subject's formula
        return None
