"""Lines of the trainer that run while a check does, and whether a run was being built meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from gradgate.core.origin import is_trainers_code
from gradgate.faults.trial import is_building


@dataclass
class Seen:
    """What ran.

    Args:
        lines: by code.
        depths: how deep below the check each began.
        stepping: the codes that ran, at least once, while no run was being built.
    """

    lines: dict[CodeType, set[int]] = field(default_factory=dict)
    depths: dict[CodeType, int] = field(default_factory=dict)
    stepping: set[CodeType] = field(default_factory=set)


@contextmanager
def lines_run(source: Path | None) -> Iterator[Seen]:
    """Lines of own functions that run in the block."""
    seen = Seen()

    def trace(frame: FrameType, event: str, _held: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if not is_trainers_code(code.co_filename, source):
            return None
        seen.lines.setdefault(code, set()).add(frame.f_lineno)
        if event == "call" and not is_building():
            seen.stepping.add(code)
        if code not in seen.depths:
            caller = frame.f_back
            seen.depths[code] = 1 + seen.depths.get(caller.f_code, -1) if caller else 0
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)
