"""Which own line freezes a parameter: the last one that took its `requires_grad` away while a run was started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from gradgate.checks.own_lines import Line, own_frames
from gradgate.subjects.contract import Run

_OF_TENSORS: Any = torch.Tensor.requires_grad


def line_of_freeze(source: Path | None, start: Callable[[], Run], module: str) -> Line | None:
    """The line that froze the first parameter of a module; None where no own line did.

    Args:
        source: of the subject.
        start: starts a run.
        module: its name among the run's.
    """
    with _written(source) as lines:
        run = start()
    frozen = (each for each in run.modules[module].parameters() if not each.requires_grad)
    return next((lines[each] for each in frozen if each in lines), None)


@contextmanager
def _written(source: Path | None) -> Iterator[dict[nn.Parameter, Line]]:
    """The own line that last wrote each parameter's `requires_grad` in the block."""
    lines: dict[nn.Parameter, Line] = {}
    method = torch.Tensor.requires_grad_

    def note(parameter: nn.Parameter) -> None:
        own = own_frames(sys._getframe(2), source)
        if own:
            lines[parameter] = own[0].f_code, own[0].f_lineno

    def write(parameter: nn.Parameter, value: bool) -> None:
        note(parameter)
        _OF_TENSORS.__set__(parameter, value)

    def call(parameter: nn.Parameter, requires_grad: bool = True) -> Any:
        note(parameter)
        return method(parameter, requires_grad)

    attribute = property(_OF_TENSORS.__get__, write)
    with (
        patch.object(nn.Parameter, "requires_grad", attribute, create=True),
        patch.object(nn.Parameter, "requires_grad_", call, create=True),
    ):
        yield lines
