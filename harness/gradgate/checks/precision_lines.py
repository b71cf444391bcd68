"""Which own line keeps a run from the precision that is declared: a cast of parameters, an autocast that is off, a
backward that begins from a loss that nothing scales."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from torch import nn

from gradgate.checks.own_lines import Line, OwnLines, is_torch, put
from gradgate.checks.update_lines import watched_step
from gradgate.subjects.contract import Run

Start = Callable[[], Run]


class _Casts(OwnLines):
    """The first own line behind which a module that it moves has a parameter of a dtype."""

    within = False

    def __init__(self, source: Path | None, dtype: torch.dtype) -> None:
        super().__init__(source)
        self.dtype = dtype
        self.found: dict[nn.Parameter, Line] = {}
        self._moving: list[nn.Module] = []

    def entering(self, frame: FrameType) -> None:
        """Note the module that a line casts, or moves."""
        module = frame.f_locals.get("self")
        if self.frames and is_torch(frame, "_apply") and isinstance(module, nn.Module):
            self._moving.append(module)

    def behind(self, line: Line) -> None:
        """Look at the modules that the line has moved."""
        moved, self._moving = self._moving, []
        for parameter in (parameter for module in moved for parameter in module.parameters()):
            if parameter.dtype == self.dtype:
                self.found.setdefault(parameter, line)


class _Autocasts(OwnLines):
    """Autocasts that are entered by own lines.

    Args:
        source: as for `OwnLines`.
        enabled: the line whose autocast is to be on.
    """

    within = False

    def __init__(self, source: Path | None, enabled: Line | None = None) -> None:
        super().__init__(source)
        self.off: list[Line] = []
        self._enabled = enabled

    def entering(self, frame: FrameType) -> None:
        """Note an autocast that is made and does nothing, or switch it on."""
        line = self.now()
        if line is None or not is_torch(frame, "__init__") or "autocast_mode" not in frame.f_code.co_filename:
            return
        if frame.f_locals.get("enabled") is False:
            self.off.append(line)
            if line == self._enabled:
                put(frame, "enabled", True)


def line_of_cast(start: Start, source: Path | None, dtype: torch.dtype, is_wrong: Callable[[Run], Any]) -> Line | None:
    """The line that casts what has an undeclared dtype.

    Args:
        start: of the run.
        source: of the subject.
        dtype: what it has.
        is_wrong: the parameter of a run that has it; None: none.
    """
    casts = _Casts(source, dtype)
    with casts.on():
        run = start()
    return casts.found.get(is_wrong(run))


def line_of_autocast(start: Start, source: Path | None, computes: Callable[[Run], bool]) -> Line | None:
    """The line that makes an autocast which is off, and on would make a step compute as declared.

    Args:
        start: of the run.
        source: of the subject.
        computes: steps a run, and says whether some operation has the declared dtype.
    """
    seen = _Autocasts(source)
    with seen.on():
        computes(start())
    for line in dict.fromkeys(seen.off):
        with _Autocasts(source, line).on():
            if computes(start()):
                return line
    return None


def line_of_backward(start: Start, source: Path | None) -> Line | None:
    """The line of the first backward of a step."""
    run = start()
    (batch,) = islice(run.batches(), 1)
    return next((event.line for event in watched_step(source, run, batch).of("backward")), None)


def line_of_refusal(error: BaseException, start: Start, source: Path | None) -> Line | None:
    """The line of the first backward, where a scaler refuses a step since it has scaled no loss; else None."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    refused = isinstance(error, AssertionError) and bool(files) and Path(files[-1]).name == "grad_scaler.py"
    return line_of_backward(start, source) if refused else None
