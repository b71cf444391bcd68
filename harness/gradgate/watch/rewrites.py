"""A value that an in-place operation rewrites, and that a name or a container of another holder reads afterwards.

Autograd follows the rewritten value, so nothing is raised and no gradient is wrong for what was computed: what was
computed is not what the program says. `h = relu(x, inplace=True)` makes `h` and `x` one tensor: `x + h` is `2 * h`.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradgate.watch import reads
from gradgate.watch.catalogue import described, make
from gradgate.watch.ops import Facts, tensors
from gradgate.watch.places import USER, Place, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradgate.watch.recorder import Recorder

_MOST_FRAMES = 32
_WRAPPERS = ("/_dynamo/eval_frame.py", "/torch/_compile.py")  # between an operation and a mode's handler
_MOST_PARTS = 64


@dataclass(slots=True)
class _Alias:
    """Another way to a rewritten tensor.

    Args:
        code: the function that has it.
        name: its name there.
        lines: where the function reads it later.
        contained: whether the name is a container's, which may be read after the function has returned it.
    """

    code: CodeType
    name: str
    lines: frozenset[int]
    contained: bool


@dataclass(slots=True)
class _Rewritten:
    tensor: weakref.ref[Tensor]
    version: int
    op: str
    place: Place
    victim: Place | None
    aliases: list[_Alias]


class Rewrites:
    """Remembers rewritten tensors that have another name, until one reads them."""

    def __init__(self) -> None:
        self.open: dict[int, _Rewritten] = {}

    def look(
        self, facts: Facts, args: Sequence[Any], frame: FrameType, recorder: Recorder, caller: FrameType | None
    ) -> None:
        """An operation on tensors that require grad is about to run.

        Args:
            facts: of the operation.
            args: what it is called with.
            frame: the innermost one of the user's own.
            recorder: what is told.
            caller: the frame that calls the operation.
        """
        if not torch.is_grad_enabled() or recorder.functions.depth or facts.detach or facts.reads_number:
            return
        if self.open and not facts.view:
            for tensor in tensors(args):
                if id(tensor) in self.open:
                    self._read(tensor, frame, recorder)
        target = args[0] if facts.writes and args else None
        if isinstance(target, Tensor) and target.grad_fn is not None:
            self._write(facts, target, frame, recorder, spelled=_is_spelled(caller, frame))

    def _write(self, facts: Facts, target: Tensor, frame: FrameType, recorder: Recorder, *, spelled: bool) -> None:
        self.open.pop(id(target), None)
        aliases = _aliases(target, frame, spelled=spelled)
        if aliases:
            node: Any = target.grad_fn
            victim = recorder.line_of(node._sequence_nr())
            place = (frame.f_code, frame.f_lineno)
            after = target._version + 1  # autograd counts once the operation is over
            self.open[id(target)] = _Rewritten(weakref.ref(target), after, facts.name, place, victim, aliases)

    def _read(self, tensor: Tensor, frame: FrameType, recorder: Recorder) -> None:
        known = self.open[id(tensor)]
        if known.tensor() is not tensor or tensor._version != known.version:
            del self.open[id(tensor)]
            return
        alias = next((alias for alias in known.aliases if _reads(alias, frame)), None)
        if alias is None:
            return
        del self.open[id(tensor)]
        held = "holds" if alias.contained else "is"
        recorder.ledger.add(
            make(
                "other",
                f"{known.op}() rewrites a value that is read afterwards: `{alias.name}` {held} the same tensor",
                culprit=known.place,
                victim=known.victim,
                severity="warning",
                op=known.op,
                tensor=described(tensor),
                why="the later read gets the rewritten numbers: the program computes something else than it says",
                fix=f"use the out-of-place form (`inplace=False`, no underscore), or clone `{alias.name}` before",
            )
        )


def _is_spelled(caller: FrameType | None, frame: FrameType) -> bool:
    """Whether the user's own line is the in-place operation, and not a call of a layer that makes it."""
    while caller is not None and caller.f_code.co_filename.endswith(_WRAPPERS):
        caller = caller.f_back
    return caller is frame


def _reads(alias: _Alias, frame: FrameType | None) -> bool:
    """Whether the stack shows that it is the alias that is being read."""
    while frame is not None:
        if frame.f_code is alias.code:
            return frame.f_lineno in alias.lines
        frame = frame.f_back
    return alias.contained


def _aliases(target: Tensor, frame: FrameType | None, *, spelled: bool) -> list[_Alias]:
    """Names on the stack, and containers with names, that keep a tensor after the statement that rewrites it."""
    found = []
    innermost = True
    for _ in range(_MOST_FRAMES):
        if frame is None:
            break
        code = frame.f_code
        if kind_of(code) == USER:
            for name, value in frame.f_locals.items():
                contained = value is not target
                if contained and (spelled or not _contains(value, target)):
                    continue
                lines = reads.later(code, frame.f_lineno, name, contained=contained, spelled=spelled and innermost)
                if lines:
                    found.append(_Alias(code, name, lines, contained))
            innermost = False
        frame = frame.f_back
    return found


def _contains(value: Any, target: Tensor) -> bool:
    if type(value) is dict:
        return len(value) <= _MOST_PARTS and any(part is target for part in value.values())
    return type(value) in (list, tuple) and len(value) <= _MOST_PARTS and any(part is target for part in value)
