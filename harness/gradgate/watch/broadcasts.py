"""Shapes that met by accident: [N, 1] against [N] on the way to the loss, and a squeeze that drops a batch of one."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradgate.core.finding import Finding
from gradgate.watch.catalogue import make
from gradgate.watch.ops import LOSSES, Facts
from gradgate.watch.places import Place

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder

_sequence = torch._C._autograd._get_sequence_nr
_MOST_NODES = 256
_MOST_MET = 1000
_FRAMES = 6  # between this module and `l1_loss`, which is no operation of its own: torch's wrappers of a mode
# What may stand between a per-element loss and the loss: reductions, elementwise functions, other shapes of the same.
_ON_THE_WAY = (
    "Mean", "Sum", "Pow", "Abs", "Mul", "Div", "Add", "Sub", "Neg", "Rsub", "MseLoss", "SmoothL1", "Huber", "Clamp",
    "Sqrt", "Exp", "Log", "Where", "MaskedFill", "MaskedSelect", "Index", "Minimum", "Maximum", "View", "Reshape",
    "Unsqueeze", "Squeeze", "Select", "Slice", "ToCopy", "Nansum", "Softplus", "LogSigmoid", "Relu", "Alias", "Clone",
)  # fmt: skip
_CODE: dict[str, Any] = {
    "code": "GG415",
    "name": "shape-broadcast",
    "why": "every prediction is held against every target: the loss is minimised by predicting their mean",
}


@dataclass(frozen=True, slots=True)
class _Met:
    """Two operands of one size, each spread along the other."""

    place: Place | None
    operand: Place | None
    op: str
    shapes: str


class Broadcasts:
    """Notes, for each operation that spread both of its operands, where it was; judges as a backward starts."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._met: dict[int, _Met] = {}  # by the sequence number of the node that the operation made

    def look(self, facts: Facts, args: Sequence[Any], out: Any, place: Place | None) -> None:
        """An elementwise operation with a gradient ran.

        Args:
            facts: of the operation.
            args: its operands first.
            out: what came of it.
            place: its line.
        """
        if facts.name == "squeeze":
            self._squeezed(args[0], out, place)
            return
        if len(args) < 2 or not isinstance(args[1], Tensor) or not isinstance(args[0], Tensor):
            return
        left, right = args[0], args[1]
        if left.requires_grad == right.requires_grad or left.dim() + right.dim() < 3:
            return
        if (left.dim() == right.dim() and not _by_a_loss(facts)) or not _is_crossed(left, right):
            return
        if len(self._met) < _MOST_MET:
            maker = self._recorder.maker(args, place)
            self._met[_sequence() - 1] = _Met(place, maker, facts.name, _shown(left, right))

    def reach(self, roots: Iterable[Any]) -> None:
        """A backward starts: which of them are a step, or some elementwise steps, from the loss?"""
        if not self._met:
            return
        for root in roots:
            node = root.grad_fn if isinstance(root, Tensor) else None
            for met in _reached(node, self._met):
                self._recorder.ledger.add(_finding(met))
        self._met.clear()

    def _squeezed(self, given: Tensor, out: Tensor, place: Place | None) -> None:
        if given.dim() > 1 and given.shape[0] == 1 and out.dim() < given.dim():
            finding = make(
                "other",
                f"squeeze() drops the leading dimension of a tensor of shape {list(given.shape)}: where that is the "
                "batch, a batch of one has another shape than all others",
                culprit=place,
                severity="note",
                op="squeeze",
                fix="name the dimension: `squeeze(-1)`",
                **{**_CODE, "why": "the shapes of what comes behind it depend on the number of rows"},
            )
            self._recorder.ledger.add(finding)


def _by_a_loss(facts: Facts) -> bool:
    """Whether the operands were made one shape by a loss function of torch's own, which then sees equal shapes."""
    if facts.name in LOSSES:
        return True
    frame: Any = sys._getframe(3)
    for _ in range(_FRAMES):
        if frame is not None and frame.f_code.co_name == "l1_loss":
            return True
        frame = frame and frame.f_back
    return False


def _own(tensor: Tensor, rank: int) -> list[int]:
    """The sizes that a tensor brings itself, aligned on the right; 1 where it is missing, or repeats one element."""
    sizes = [size if step else 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True)]
    return [1] * (rank - len(sizes)) + sizes


def _is_crossed(left: Tensor, right: Tensor) -> bool:
    rank = max(left.dim(), right.dim())
    ours, theirs = _own(left, rank), _own(right, rank)
    same = [size for size in ours if size != 1] == [size for size in theirs if size != 1]
    spread = any(a == 1 != b for a, b in zip(ours, theirs, strict=True))
    return same and spread and any(b == 1 != a for a, b in zip(ours, theirs, strict=True))


def _shown(left: Tensor, right: Tensor) -> str:
    out = list(torch.broadcast_shapes(left.shape, right.shape))
    if left.shape == right.shape:
        return f"{_own(left, left.dim())} and {_own(right, right.dim())} are spread to {out}"
    return f"{list(left.shape)} against {list(right.shape)} becomes {out}"


def _reached(root: Any, met: dict[int, _Met]) -> list[_Met]:
    """Those of `met` that lie behind a root with nothing but elementwise steps and reductions between."""
    waiting, found = [root], []
    seen: set[Any] = set()
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        known = met.get(node._sequence_nr())
        if known is not None:
            found.append(known)
        elif node.name().startswith(_ON_THE_WAY):
            waiting.extend(behind for behind, _ in node.next_functions)
    return found


def _finding(met: _Met) -> Finding:
    return make(
        "other",
        f"{met.shapes} in {met.op}(), on its way to the loss",
        culprit=met.place,
        victim=met.operand,
        op=met.op,
        fix="give both one shape: `prediction.squeeze(-1)`, or `target.unsqueeze(-1)`",
        **_CODE,
    )
