"""Which own line leaves a mode, a generator or a number of the run changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable
from functools import partial
from itertools import islice
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from gradgate.checks.modes import AtRest, at_rest, draws, named_modules
from gradgate.checks.own_lines import Line, OwnLines, is_torch
from gradgate.generators import states
from gradgate.subjects.contract import Run


class ChangeLines(OwnLines):
    """The own lines that change what `read` gives.

    Args:
        source: of the subject.
        read: a value that compares with `==`.

    Attributes:
        changes: the lines that lead to each change, outermost first.
        asked: the functions that read the state of torch's generator.
        put: whether it was put back.
        last: of each function the line that ran last.
        calls: the lines that call a module from outside of any, the first of the outermost function, and the module.
    """

    def __init__(self, source: Any, read: Callable[[], Any]) -> None:
        super().__init__(source)
        self.read = read
        self.changes: list[list[Line]] = []
        self.asked: list[CodeType] = []
        self.put = False
        self.last: dict[CodeType, Line] = {}
        self.calls: list[tuple[Line, Line, nn.Module]] = []
        self.ran: set[Line] = set()
        self._value: Any = None

    def behind(self, line: Line) -> None:
        """Look at what the line has done."""
        self.last[line[0]] = line
        self.ran.add(line)
        value = self.read()
        if value != self._value:
            self.changes.append(self.way())
            self._value = value

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        if is_torch(frame, "get_rng_state") and self.frames:
            self.asked.append(self.frames[-1].f_code)
        self.put |= is_torch(frame, "set_rng_state")
        if is_torch(frame, "_call_impl") and self.frames and frame.f_back and frame.f_back.f_back:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and self.is_own(frame.f_back.f_back.f_code):
                line = self.frames[-1].f_code, self.at[-1]
                self.calls.append((line, _beginning(self.frames[0].f_code), module))

    def during(self, call: Callable[[], Any]) -> None:
        """Trace a call; what it raises ends it."""
        self._value = self.read()
        with self.on():
            try:
                call()
            except (Exception, SystemExit):
                return


def _beginning(code: CodeType) -> Line:
    """The first line of a function's body."""
    lines = [line for *_, line in code.co_lines() if line is not None and line > code.co_firstlineno]
    return code, min(lines, default=code.co_firstlineno)


def random_state() -> bytes:
    """The state of torch's, Python's and numpy's generators, as one value."""
    torch_state, _, python_state, numpy_state = states()
    return bytes(torch_state.numpy().tobytes()) + repr((python_state, numpy_state)).encode()


def line_of_draw(source: Any, call: Callable[[], Any]) -> Line | None:
    """The line that moves a global generator; where its state was asked for and not put back, the place for that."""
    trace = ChangeLines(source, random_state)
    trace.during(call)
    if trace.asked and not trace.put:
        return trace.last.get(trace.asked[0])
    return trace.changes[-1][-1] if trace.changes else None


def line_of_change(
    source: Any, read: Callable[[], Any], call: Callable[[], Any], usual: Collection[Line] = ()
) -> Line | None:
    """The line that changes a value: the innermost that is not a part of what a step does anyhow.

    Args:
        source: of the subject.
        read: the value.
        call: in which it changes.
        usual: lines that may change it, since a step does.
    """
    trace = ChangeLines(source, read)
    trace.during(call)
    if not trace.changes:
        return None
    way = trace.changes[-1]
    return next((line for line in reversed(way) if line not in usual), way[-1])


def line_of_left_mode(source: Any, read: Callable[[], Any], call: Callable[[], Any]) -> Line | None:
    """Where modes that a call changes had to be put back: the end of the function that changed them."""
    trace = ChangeLines(source, read)
    trace.during(call)
    if not trace.changes:
        return None
    way = trace.changes[-1]
    return trace.last.get(way[-1][0], way[-1])


def line_of_call(
    source: Any, modules: Container[nn.Module], call: Callable[[], Any], *, outermost: bool = False
) -> Line | None:
    """The line that calls a module, or one that holds it, from outside of any.

    Args:
        source: of the subject.
        modules: any of these.
        call: in which it is called.
        outermost: where another function of the trainer's has called that one's, the beginning of the first: the
            place of what is missing for all that is called in it.
    """
    trace = ChangeLines(source, lambda: None)
    trace.during(call)
    for line, beginning, module in trace.calls:
        if any(inner in modules for inner in module.modules()):
            return beginning if outermost and source is not None and beginning[0] is not line[0] else line
    return None


def line_of_parts(source: Any, start: Callable[[], Run], names: Container[str]) -> Line | None:
    """The line of a step that calls one of a run's modules."""
    run = start()
    parts = [part for name, part in named_modules(run) if name in names]
    return line_of_call(source, parts, partial(run.step, next(iter(run.batches()))))


def line_of_stranger(source: Any, start: Callable[[], Run], names: Iterable[str]) -> Line | None:
    """The line of a step that calls a model of which the run knows nothing."""
    return _line_of_recorded(source, start, lambda rest: [rest.strangers[name] for name in names])


def line_of_graph(source: Any, start: Callable[[], Run], names: Iterable[str]) -> Line | None:
    """The line of a step that calls one of the modules whose graph is for nothing."""
    return _line_of_recorded(source, start, lambda rest: [rest.graphs[name] for name in names])


def _line_of_recorded(source: Any, start: Callable[[], Run], parts: Callable[[AtRest], list[nn.Module]]) -> Line | None:
    run = start()
    first, second = islice(run.batches(), 2)
    with at_rest(run) as rest:
        run.step(first)
    return line_of_call(source, parts(rest), partial(run.step, second))


def lines_of(source: Any, call: Callable[[], Any]) -> set[Line]:
    """The own lines that run in a call."""
    trace = ChangeLines(source, lambda: None)
    trace.during(call)
    return trace.ran


def fingerprint(tensors: Collection[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """Changes with each write to one of them that autograd's version counter sees."""
    return tuple((id(tensor), tensor._version) for tensor in tensors)


class AnyDrawing:
    """All modules whose mode decides what they compute and that are in train mode, as a container."""

    def __contains__(self, module: object) -> bool:
        return isinstance(module, nn.Module) and draws(module) and module.training


class FrozenLines(OwnLines):
    """The own lines that freeze a module, which is where it is put into eval mode as well."""

    def __init__(self, source: Any, found: list[tuple[nn.Module, Line]]) -> None:
        super().__init__(source)
        self.found = found

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        line = self.now()
        given = frame.f_locals
        if line is not None and is_torch(frame, "requires_grad_") and given.get("requires_grad") is False:
            self.found.append((given["self"], line))
