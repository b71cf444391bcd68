"""What PyTorch raised, as a finding: where its own text says which contract was broken."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import FrameType

from torch import Tensor

from gradgate.core.finding import Finding, Kind
from gradgate.core.origin import in_one_line
from gradgate.watch import sources
from gradgate.watch.catalogue import make
from gradgate.watch.places import USER, Place, kind_of

# A part of the text, the kind, what to say.
_TEXTS: tuple[tuple[str, Kind, str], ...] = (
    ("leaf Variable that requires grad is being used in an in-place", "inplace_leaf",
     "an in-place operation writes a leaf that requires grad, or a view of one"),
    ("a leaf Variable that requires grad has been moved into the graph interior", "inplace_leaf",
     "an in-place operation writes a leaf that requires grad"),
    ("is a view and is being modified inplace", "inplace_view", "a view is written in place where autograd forbids it"),
    ("is a view of a leaf Variable that requires grad", "inplace_leaf", "an in-place operation writes a leaf's view"),
    ("view was created in no_grad mode and is being modified inplace", "inplace_view",
     "a view taken without gradients is written with gradients"),
    ("view was created in inference mode", "inplace_view", "a view taken in inference mode is written outside"),
    ("unsupported operation: more than one element of the written-to tensor refers to a single memory location",
     "inplace_view", "an expanded tensor is written in place"),
    ("unsupported operation: some elements of the input tensor and the written-to tensor refer to a single",
     "inplace_view", "an operation reads and writes the same memory"),
    ("cannot be converted to type", "dtype_overflow", "a constant does not fit the dtype"),
    ("would mutate a captured Tensor", "other", "a function under torch.func writes a tensor that it captured"),
    ("inplace arithmetic", "other", "a function under vmap writes a tensor that vmap does not see"),
)  # fmt: skip


def parts() -> tuple[str, ...]:
    """The parts of errors' texts that `explain` knows."""
    return tuple(part for part, _, _ in _TEXTS)


def explain(error: BaseException) -> tuple[Finding, list[Tensor]] | None:
    """A finding for an error that PyTorch raised.

    Args:
        error: as caught, with its traceback.

    Returns:
        The finding with its culprit, and the tensors that the culprit's line names; None where the text says nothing.
    """
    text = str(error)
    for part, kind, message in _TEXTS:
        if part in text and not (kind == "dtype_overflow" and "overflow" not in text):
            frame, line = next(_user_frames(error), (None, 0))
            place: Place | None = (frame.f_code, line) if frame else None
            operands = list(sources.operands(frame, line)) if frame else []
            detail = {"raised": in_one_line(error)}
            return make(kind, message, culprit=place, confirmed=None, detail=detail), operands
    return None


def _user_frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    frames = list(traceback.walk_tb(error.__traceback__))
    yield from ((frame, line) for frame, line in reversed(frames) if kind_of(frame.f_code) == USER)
