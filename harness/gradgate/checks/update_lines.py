"""What a step does with gradients, line by line: backward, writes to `.grad`, clipping, the optimizer's step; and which
of these lines a wrong update comes from."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import isclose, sqrt
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradgate.checks.own_lines import Line, OwnLines, is_torch, statement_at
from gradgate.checks.snapshot import named_parameters
from gradgate.subjects.contract import Batch, Run

_CLIPS = ("_clip_grads_with_norm_", "clip_grad_value_", "_clip_grad_value_")  # as their frames are called
_CLOSE = 1e-5  # a norm that is summed in float32
_HOOKS = ("register_hook", "register_post_accumulate_grad_hook", "register_full_backward_hook")
_EVENTS: Mapping[str, str] = {
    **dict.fromkeys(_CLIPS, "clip"),
    "_get_total_norm": "norm",
    "backward": "backward",
    "zero_grad": "clear",
    "unscale_": "unscale",
    "train": "mode",
    "checkpoint": "recompute",
}


@dataclass(frozen=True)
class Event:
    """Something that a step does.

    Args:
        kind: `backward`, `norm`, `clip`, `unscale`, `clear`, `step`, `write`, `mode`, `recompute`.
        way: the lines that lead there, outermost first.
        parameters: whose gradients a `write` changed.
        made: the line that made what is used: of a backward its loss, of clipping the norm that it is given.
        said: whether a `recompute` keeps random numbers.
    """

    kind: str
    way: tuple[Line, ...]
    parameters: frozenset[nn.Parameter] = frozenset()
    made: Line | None = None
    said: bool = True

    @property
    def line(self) -> Line:
        """The innermost line."""
        return self.way[-1]


class UpdateLines(OwnLines):
    """The events of a step, in order.

    Args:
        source: the subject's.
        parameters: whose gradients are watched.
    """

    def __init__(self, source: Any, parameters: Mapping[nn.Parameter, str]) -> None:
        super().__init__(source)
        self.parameters = parameters
        self.events: list[Event] = []
        self.ran: set[Line] = set()
        self.bodies: list[tuple[FrameType, list[Line]]] = []  # of each own function, its lines in order
        self._made: dict[int, tuple[Tensor, Line]] = {}
        self._seen = self._signature()
        self._backward: tuple[int, FrameType, int] | None = None
        self._lines: list[list[Line]] = []

    def behind(self, line: Line) -> None:
        """Look at what the line has done."""
        self.ran.add(line)
        self._lines[-1].append(line)
        given = line[1] == line[0].co_firstlineno and len(self.frames) > 1  # an argument is its caller's
        maker = (self.frames[-2].f_code, self.at[-2]) if given else line
        for value in list(self.frames[-1].f_locals.values()):
            if isinstance(value, Tensor) and value.numel() == 1:
                self._made.setdefault(id(value), (value, maker))
        now = self._signature()
        if now != self._seen:
            changed = frozenset(p for p in self.parameters if now.get(p) != self._seen.get(p))
            self._seen = now
            if not self._is_in_backward():
                self._note("write", parameters=changed)

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        if self.is_own(frame.f_code):
            self._lines.append([])
            self.bodies.append((frame, self._lines[-1]))
            return
        kind = _EVENTS.get(frame.f_code.co_name)
        if kind is None or not self.frames or not is_torch(frame, frame.f_code.co_name):
            return
        given = frame.f_locals
        if kind == "backward":
            if self._is_in_backward():
                return
            loss = given.get("self", given.get("tensors"))
            self._backward = (len(self.frames), self.frames[-1], self.at[-1])
            self._note(kind, made=self._maker(loss))
        elif kind == "clip":
            self._note(kind, made=self._wrong_norm(given.get("total_norm")))
        elif kind == "recompute":
            kept = given.get("kwargs", given).get("preserve_rng_state", True)
            self._note(kind, said=bool(kept))
        else:
            self._note(kind)

    def leaving(self, frame: FrameType, value: Any) -> None:  # noqa: ARG002
        """Note what an own function gives."""
        self._lines.pop()

    def note_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """An optimizer is about to step."""
        if self.frames:
            self.behind((self.frames[-1].f_code, self.at[-1]))
            self._note("step")

    @contextmanager
    def step(self) -> Iterator[None]:
        """Trace the block and note the optimizer's steps."""
        handle = register_optimizer_step_pre_hook(self.note_step)
        self._seen = self._signature()
        try:
            with self.on():
                yield
        finally:
            handle.remove()

    def first_nonfinite(self) -> Line | None:
        """The line that made the first number that is not finite; None where all are."""
        return next((line for value, line in self._made.values() if not bool(value.isfinite())), None)

    def of(self, *kinds: str) -> list[Event]:
        """The events of these kinds."""
        return [event for event in self.events if event.kind in kinds]

    def between(self, *kinds: str) -> list[Event]:
        """The events of these kinds behind the last backward before the first step."""
        numbers = [i for i, event in enumerate(self.events) if event.kind == "step"]
        end = numbers[0] if numbers else len(self.events)
        backwards = [i for i, event in enumerate(self.events[:end]) if event.kind == "backward"]
        begin = backwards[-1] if backwards else 0
        return [event for event in self.events[begin:end] if event.kind in kinds]

    def _note(self, kind: str, **told: Any) -> None:
        self.events.append(Event(kind, tuple(self.way()), **told))

    def _maker(self, value: Any) -> Line | None:
        found = self._made.get(id(value))
        return None if found is None else found[1]

    def _wrong_norm(self, norm: Any) -> Line | None:
        """The line that made the norm, where it is not that of the gradients."""
        squares = [float(p.grad.double().square().sum()) for p in self.parameters if p.grad is not None]
        right = isinstance(norm, Tensor) and isclose(float(norm), sqrt(sum(squares)), rel_tol=_CLOSE)
        return None if right else self._maker(norm)

    def _is_in_backward(self) -> bool:
        if self._backward is None:
            return False
        depth, frame, line = self._backward
        return len(self.frames) >= depth and self.frames[depth - 1] is frame and self.at[depth - 1] == line

    def _signature(self) -> dict[nn.Parameter, tuple[int, int]]:
        return {p: (id(p.grad), p.grad._version) for p in self.parameters if p.grad is not None}


def watched_step(source: Any, run: Run, batch: Batch, around: AbstractContextManager[Any] | None = None) -> UpdateLines:
    """A step under trace; what it raises ends it."""
    trace = UpdateLines(source, named_parameters(run))
    with around or nullcontext(), trace.step():
        try:
            run.step(batch)
        except (Exception, SystemExit):
            return trace
    return trace


def line_of_clipping(trace: UpdateLines, *, scaled: bool) -> Line | None:
    """Where clipping is wrong, or belongs.

    Args:
        trace: of a step whose gradients are far too large.
        scaled: whether only a way with a scaled loss is wrong.
    """
    steps = trace.of("step")
    if not steps:
        return None
    clips = [event for event in trace.events if event.kind == "clip"]
    norms, before = trace.between("norm", "clip"), trace.between("clip")
    if scaled and norms and not _is_unscaled_before(trace, norms[0]):
        return norms[0].line
    if not before:
        own = [event for event in trace.between("write") if event.line not in _lines(trace.of("unscale"))]
        late = [event for event in clips if trace.events.index(event) > trace.events.index(steps[0])]
        return own[-1].line if own else late[0].line if late else steps[0].line
    clip = before[-1]
    written = [event.parameters for event in trace.between("write") if event.line == clip.line]
    whole = {p for p in trace.parameters if p.grad is not None}
    partly = bool(written) and frozenset().union(*written) < whole
    return clip.line if partly or clip.made is None else clip.made


def _is_unscaled_before(trace: UpdateLines, event: Event) -> bool:
    number = trace.events.index(event)
    return any(other.kind == "unscale" for other in trace.events[:number])


def _lines(events: list[Event]) -> set[Line]:
    return {event.line for event in events}


def line_of_written_gradient(trace: UpdateLines) -> Line | None:
    """The own line between backward and step that changes gradients beside clipping and unscaling."""
    torches = _lines(trace.of("clip", "unscale"))
    return next((event.line for event in trace.between("write") if event.line not in torches), None)


def line_of_clearing(traces: list[UpdateLines]) -> Line | None:
    """Where gradients are not cleared, of several steps one after the other.

    A call that reaches too little is named; one that some step does not make, its caller; and where there is none, the
    place where it belongs: where a step sets the mode, else begins its forward.
    """
    clears = [_clears(trace) for trace in traces]
    made = [events for events in clears if events]
    if made:
        some = made[0][0]
        missed = 1 if some.kind == "write" else 0  # in the first step there may be nothing to clear
        return some.line if len(made) >= len(traces) - missed else some.way[0]
    trace = traces[-1]
    backwards, steps = trace.of("backward"), trace.of("step")
    if not backwards or not steps:
        return None
    common = [line for line, other in zip(backwards[0].way, steps[0].way, strict=False) if line[0] is other[0]]
    if not common:
        return None
    whole = common[0][0]
    modes = [event.way[len(common) - 1] for event in trace.of("mode") if len(event.way) >= len(common)]
    at = next((line for line in modes if line[0] is whole), None)
    return at or _loop_around(backwards[0].way[len(common) - 1])


def _clears(trace: UpdateLines) -> list[Event]:
    """Calls of `zero_grad`, and own writes to gradients before the first backward or behind the last step."""
    kinds = [event.kind for event in trace.events]
    begin = kinds.index("backward") if "backward" in kinds else 0
    end = len(kinds) - kinds[::-1].index("step") if "step" in kinds else len(kinds)
    return trace.of("clear") or [e for e in trace.events[:begin] + trace.events[end:] if e.kind == "write"]


def _loop_around(line: Line) -> Line:
    """The outermost loop of its function that a line is in; else the line."""
    statement = statement_at(line)
    if statement is None:
        return line
    for number in range(line[0].co_firstlineno, statement.lineno):
        around = statement_at((line[0], number))
        if isinstance(around, ast.For | ast.While) and (around.end_lineno or 0) >= statement.lineno:
            return (line[0], around.lineno)
    return line


class HookLines(OwnLines):
    """The own lines that register hooks on parameters or modules while a run is built."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.hooks: list[tuple[Any, Line]] = []

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        line = self.now()
        if line is not None and is_torch(frame, *_HOOKS):
            self.hooks.append((frame.f_locals.get("self"), line))


def line_of_hook(source: Any, start: Callable[[], Run], name: str) -> Line | None:
    """The line that hangs a hook on a parameter of this name, or on the module that holds it."""
    trace = HookLines(source)
    with trace.on():
        run = start()
    wanted: list[Any] = [p for p, known in named_parameters(run).items() if known == name]
    wanted += [
        module
        for key, top in run.modules.items()
        for inner, module in top.named_modules(prefix=key)
        if name.rpartition(".")[0] == inner
    ]
    return next((line for owner, line in trace.hooks if any(owner is one for one in wanted)), None)


def line_of_guard(trace: UpdateLines) -> Line | None:
    """Where a step that updates on what is not finite had to stop: at clipping, else at the optimizer's step."""
    steps, clips = trace.of("step"), trace.between("clip")
    if not steps:
        return None
    near = [event.line for event in clips if event.line[0] is steps[0].line[0]]
    return near[0] if near else steps[0].line
