"""Places: the innermost line of the user's own code on the stack, cheap to take and resolved when it is shown."""

from __future__ import annotations

import sys
from types import CodeType, FrameType

import torch.utils.checkpoint

from gradgate.core.finding import Location
from gradgate.core.origin import at_line, is_own_code

_CHECKPOINT = torch.utils.checkpoint.__file__
Place = tuple[CodeType, int]

FOREIGN, USER, OPTIMIZER = 0, 1, 2
_KINDS: dict[str, int] = {}  # by file: the hash of a code object is computed anew each time, in 2 microseconds


def kind_of(code: CodeType) -> int:
    """Whose code it is: USER, OPTIMIZER (torch.optim's own), or FOREIGN."""
    kind = _KINDS.get(code.co_filename)
    if kind is None:
        optimizer = "/torch/optim/" in code.co_filename.replace("\\", "/")
        kind = USER if is_own_code(code.co_filename) else OPTIMIZER if optimizer else FOREIGN
        _KINDS[code.co_filename] = kind
    return kind


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The first frame of the user's own code, from `frame` outwards."""
    known = _KINDS
    while frame is not None:
        code = frame.f_code
        kind = known.get(code.co_filename)
        if (kind_of(code) if kind is None else kind) == USER:
            return frame
        frame = frame.f_back
    return None


def here(depth: int = 1) -> Place | None:
    """The innermost user line on the stack of the caller."""
    frame = user_frame(sys._getframe(depth))
    return None if frame is None else (frame.f_code, frame.f_lineno)


def inside_optimizer(frame: FrameType | None) -> bool:
    """Whether an optimizer's step runs on this stack, torch's own or one derived from it."""
    while frame is not None:
        code = frame.f_code
        if kind_of(code) == OPTIMIZER and code.co_name != "zero_grad":
            return True
        frame = frame.f_back
    return False


def inside_sharding(frame: FrameType | None) -> bool:
    """Whether FSDP gathers here what it freed: the same numbers, written again under the same version."""
    while frame is not None and kind_of(frame.f_code) != USER:
        if "/torch/distributed/fsdp/" in frame.f_code.co_filename.replace("\\", "/"):
            return True
        frame = frame.f_back
    return False


def inside_checkpoint(frame: FrameType | None, stop: CodeType) -> bool:
    """Whether checkpointing runs a forward on this stack, inside of `stop`."""
    while frame is not None and frame.f_code is not stop:
        if frame.f_code.co_filename == _CHECKPOINT:
            return True
        frame = frame.f_back
    return False


def location(place: Place | None) -> Location | None:
    """As a finding carries it."""
    return None if place is None else at_line(*place)
