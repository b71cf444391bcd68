"""What PyTorch raised, as a finding: where its own text says which contract was broken."""

from __future__ import annotations

import re
import traceback
from dataclasses import replace

import torch
from torch import Tensor

from gradgate.core.finding import Finding, Kind, Location
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
    ("a leaf Variable that requires grad has been used in an in-place operation", "inplace_leaf",
     "a custom Function writes a leaf that requires grad"),
    ("with out=... arguments don't support automatic differentiation", "inplace_leaf",
     "an operation is to write its result through `out=`, and a tensor on its line requires grad"),
    ("unsupported operation: more than one element of the written-to tensor refers to a single memory location",
     "inplace_view", "an expanded tensor is written in place"),
    ("unsupported operation: some elements of the input tensor and the written-to tensor refer to a single",
     "inplace_view", "an operation reads and writes the same memory"),
    ("cannot be converted to type", "dtype_overflow", "a constant does not fit the dtype"),
    ("would mutate a captured Tensor", "other", "a function under torch.func writes a tensor that it captured"),
    ("inplace arithmetic", "other", "a function under vmap writes a tensor that vmap does not see"),
    ("broadcast shape", "other", "a function under vmap writes a tensor that vmap does not see"),
    ("Inference tensors cannot be saved for backward", "other", "a tensor made in inference mode is used in a graph"),
    ("Inplace update to inference tensor outside InferenceMode", "other", "a tensor of inference mode is written"),
    ("saved during the original forward and recomputation", "other", "a checkpointed block recomputes other tensors"),
    ("Recomputed values for the following tensors", "other", "a checkpointed block recomputes other tensors"),
    ("marked as dirty during the forward method were not returned", "custom_function",
     "a custom Function marks an input as dirty and does not return it"),
    ("returned an incorrect number of gradients", "custom_function",
     "a custom Function's backward returns another number of gradients than forward has inputs"),
    ("returned an invalid gradient at index", "custom_function",
     "a custom Function's backward returns a gradient of the wrong shape or type"),
    ("marked with @once_differentiable", "custom_function", "a custom Function is differentiated twice"),
    ("has changed the size of value", "custom_function", "a hook changes the shape of a gradient"),
    ("appears to not have been used in the graph", "graph_cut",
     "the output does not depend on a tensor that it is to be differentiated by"),
    ("support the deepcopy protocol", "other", "a tensor with a history is deep-copied"),
    ("you can only change requires_grad flags of leaf variables", "other", "a tensor with a history is to be frozen"),
)  # fmt: skip


def parts() -> tuple[str, ...]:
    """The parts of errors' texts that `explain` knows."""
    return tuple(part for part, _, _ in _TEXTS)


def explain(error: BaseException) -> tuple[Finding, list[Tensor]] | None:
    """A finding for an error that PyTorch raised.

    Args:
        error: as caught, with its traceback.

    Returns:
        The finding with its culprit, and the tensors that were at hand there, the likeliest first; None where the text
        says nothing.
    """
    text = str(error)
    for part, kind, message in _TEXTS:
        if part not in text or not _means(kind, part, text, error):
            continue
        frames = list(traceback.walk_tb(error.__traceback__))
        at = next((i for i in range(len(frames) - 1, -1, -1) if kind_of(frames[i][0].f_code) == USER), None)
        frame, line = frames[at] if at is not None else (None, 0)
        place: Place | None = (frame.f_code, line) if frame else None
        operands = list(sources.operands(frame, line)) if frame else []
        inner = frames[at + 1 :] if at is not None else []
        operands += [value for own, _ in inner for value in own.f_locals.values() if isinstance(value, Tensor)]
        made = make(kind, message, culprit=place, confirmed=None, detail={"raised": in_one_line(error)})
        backward = _returning(text)
        return (replace(made, culprit=backward, victim=made.culprit) if backward else made), operands
    return None


def _means(kind: Kind, part: str, text: str, error: BaseException) -> bool:
    """Whether a part of a text says what it says in general."""
    if kind == "dtype_overflow":
        return "overflow" in text
    if part == "broadcast shape":  # without a transform, nothing but a wrong shape
        return any("functorch" in frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return True


def _returning(text: str) -> Location | None:
    """The last return of the backward of the custom Function that a text names."""
    named = re.search(r"[Ff]unction (\w+)Backward returned an in", text)
    waiting = list(torch.autograd.Function.__subclasses__()) if named else []
    while waiting:
        owner = waiting.pop()
        waiting += owner.__subclasses__()
        if named and owner.__name__ == named[1] and "backward" in vars(owner):
            return sources.last_return(owner.backward)
    return None
