"""Which own line gave a parameter's group a number that is not the declared one: the group's, the schedule's, or the
line behind the optimizer's step, where a schedule that is never stepped belongs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import isclose
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradgate.checks.own_lines import Line, OwnLines, arguments_of, is_torch, statement_at
from gradgate.checks.snapshot import named_parameters
from gradgate.subjects.contract import Context, Run, Subject

_TRIVIAL = (0.0, 1.0)  # numbers that stand everywhere, so that finding one says nothing
_DEEPEST = 4  # containers and objects around a number that an argument holds
_MOST = 64  # groups in a list
Group = dict[str, Any]


@dataclass
class _Born:
    """A group as it was first seen: the lines that led there, their functions, and its keys."""

    group: Group
    way: list[Line]
    frames: list[FrameType]
    keys: frozenset[str]


@dataclass
class _Write:
    """A line, or a call in it, that changed a group's rate, before the update of this number."""

    update: int
    line: Line
    groups: frozenset[int]
    count: int


@dataclass
class _Computed:
    """The lines of an own function that gave a number, before the update of this number, and whether torch's scheduler
    asked for it."""

    update: int
    lines: list[Line]
    value: float
    asked: bool


class RateLines(OwnLines):
    """Groups as they come to be, writes to their rates, and own functions that give numbers, update by update."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.born: dict[int, _Born] = {}
        self.added: dict[int, _Born] = {}  # to an optimizer
        self.late: dict[int, bool] = {}  # whether a scheduler had been made before
        self.advanced: list[Line] = []  # schedules that were stepped
        self.schedulers: list[Line] = []
        self.writes: list[_Write] = []
        self.computed: list[_Computed] = []
        self.stepped: list[Line] = []  # by update
        self.after: dict[Line, Line] = {}  # of a stepping line the one that ran behind it in its function
        self.held: list[dict[int, Group]] = []  # by update, a copy of each group
        self.started = 0  # lines that ran before the first step
        self._groups: list[Group] = []
        self._rates: dict[int, Any] = {}
        self._lines: list[list[Line]] = []
        self._behind_step: tuple[FrameType, Line] | None = None

    def behind(self, line: Line) -> None:
        """Look at what the line has done."""
        for lines in self._lines:
            lines.append(line)
        if self._behind_step is not None and self.frames[-1] is self._behind_step[0] and line != self._behind_step[1]:
            self.after.setdefault(self._behind_step[1], line)
            self._behind_step = None
        if not self.held:
            for value in list(self.frames[-1].f_locals.values()):
                self._note(value)
        self._look(line)

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        if is_torch(frame, "add_param_group"):
            group = frame.f_locals.get("param_group")
            if isinstance(group, dict) and self.frames:
                self.added[id(group)] = self._seen(group)
                self.late[id(group)] = bool(self.schedulers)
                self._groups.append(group)
        elif is_torch(frame, "__init__") and "lr_scheduler" in frame.f_code.co_filename:
            line = self.now()
            if line is not None and line not in self.schedulers:
                self.schedulers.append(line)
        elif is_torch(frame, "step") and "lr_scheduler" in frame.f_code.co_filename:
            self.advanced += self.way()[-1:]
        elif self.is_own(frame.f_code):
            self._lines.append([])

    def leaving(self, frame: FrameType, value: Any) -> None:
        """Note what an own function gives."""
        lines = self._lines.pop() if self._lines else []
        if isinstance(value, float | int) and not isinstance(value, bool):
            asked = any(_is_asked(one) for one in (*self.frames, frame))
            self.computed.append(_Computed(len(self.held), lines, float(value), asked))
        elif not self.held:
            self._note(value)

    def note_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """An optimizer is about to step."""
        line = self.now()
        if line is None:
            return
        self._groups += [group for group in optimizer.param_groups if all(group is not known for known in self._groups)]
        self._look(line)
        self.held.append({id(group): dict(group) for group in optimizer.param_groups})
        self.stepped.append(line)
        self._behind_step = (self.frames[-1], line)

    @contextmanager
    def updates(self) -> Iterator[None]:
        """Trace the block and note the optimizer's steps."""
        handle = register_optimizer_step_pre_hook(self.note_step)
        try:
            with self.on():
                yield
        finally:
            handle.remove()

    def _note(self, value: Any) -> None:
        members = value if isinstance(value, list | tuple) and len(value) <= _MOST else (value,)
        for group in members:
            if type(group) is dict and "params" in group and id(group) not in self.born and self.frames:
                self.born[id(group)] = self._seen(group)

    def _seen(self, group: Group) -> _Born:
        return _Born(group, self.way(), list(self.frames), frozenset(group))

    def _look(self, line: Line) -> None:
        changed = set()
        for group in self._groups:
            rate = float(group["lr"]) if "lr" in group else 0.0
            if self._rates.setdefault(id(group), rate) != rate:
                changed.add(id(group))
                self._rates[id(group)] = rate
        if changed:
            self.writes.append(_Write(len(self.held), line, frozenset(changed), self.count))


def line_of_rate(
    subject: Subject, start: Callable[..., Run], context: Context, update: int, name: str, key: str
) -> Line | None:
    """The line that made a number of a parameter's group differ from the declared one.

    Args:
        subject: whose lines.
        start: of the run.
        context: of the check.
        update: from 0, the first at which it differs.
        name: of the parameter.
        key: of its group.
    """
    trace = RateLines(subject.source)
    with trace.updates():
        run = start(context.seed, device=context.device)
        trace.started = trace.count
        for batch in islice(run.batches(), update + 2):
            run.step(batch)
            if len(trace.held) > update + 1:
                break
    parameter = next(p for p, known in named_parameters(run).items() if known == name)
    group = _group_of(parameter, run.optimizers)
    if group is None or len(trace.held) <= update:
        return None
    declared = run.hyperparameters(update)
    wanted = declared[name].get(key)
    if key != "lr":
        return _of_group(trace, group, key, wanted)
    whole = _all_off(trace, run, declared, update)
    actual, wanted = float(trace.held[update][id(group)]["lr"]), float(declared[name]["lr"])
    if whole and (line := _of_peak(trace, run, name, group, update)) is not None:
        return line
    once = len(trace.held) > update + 1 and _is_right_at(trace, run, name, id(group), update + 1)
    return _of_rate(trace, group, update, actual, wanted, alone=not whole, once=once)


def line_behind_skip(subject: Subject, run: Run, infinite: Any) -> Line | None:
    """The line that changes a rate in a step whose update is skipped; None where none does.

    Args:
        subject: whose lines.
        run: at its start.
        infinite: a context in which every gradient is infinite.
    """
    trace = RateLines(subject.source)
    batches = run.batches()
    with trace.updates():
        run.step(next(batches))
    trace._groups = [group for optimizer in run.optimizers for group in optimizer.param_groups]
    trace.advanced, trace.writes = [], []
    with infinite, trace.updates():
        run.step(next(batches))
    return next(iter([*trace.advanced, *(write.line for write in trace.writes)]), None)


def line_of_refusal(error: BaseException | None, subject: Subject, start: Callable[..., Run], seed: int) -> Line | None:
    """The line that gave the optimizer a group behind a scheduler that raises, since it does not know it."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)] if error else []
    if not any("lr_scheduler" in file for file in files):
        return None
    trace = RateLines(subject.source)
    with trace.updates():
        start(seed)
    return next((trace.added[group].way[-1] for group, late in trace.late.items() if late), None)


def _group_of(parameter: torch.Tensor, optimizers: Sequence[Optimizer]) -> Group | None:
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return next((group for group in groups if any(parameter is one for one in group["params"])), None)


def _all_off(trace: RateLines, run: Run, declared: Mapping[str, Mapping[str, Any]], update: int) -> bool:
    """Whether all groups have another rate than declared."""
    for parameter, name in named_parameters(run).items():
        group = _group_of(parameter, run.optimizers)
        if name not in declared or group is None or id(group) not in trace.held[update]:
            continue
        if isclose(
            float(trace.held[update][id(group)]["lr"]), float(declared[name]["lr"]), rel_tol=1e-6, abs_tol=1e-15
        ):
            return False
    return True


def _of_rate(
    trace: RateLines, group: Group, update: int, actual: float, wanted: float, *, alone: bool, once: bool
) -> Line | None:
    own = [write for write in trace.writes if id(group) in write.groups]
    added = trace.added.get(id(group))
    if alone:  # the other groups are right, so the schedule is
        if added is not None and trace.late[id(group)] and "initial_lr" not in group:
            return added.way[-1]
        ratio = wanted / actual if actual else 0.0
        return _of_group(trace, group, "lr", float(group.get("initial_lr", actual)) * ratio)
    early = [write for write in own if write.update == 0 and write.count > trace.started]
    if early:
        return early[-1].line
    now = [write for write in own if write.update == update]
    if update and not now:
        if own and any(write.update for write in own):
            return own[-1].line
        return trace.after.get(trace.stepped[0], trace.stepped[0])
    if update and len(now) > 1:
        return now[-1].line
    rates = {float(held[id(group)]["lr"]) for held in trace.held if id(group) in held}
    computed = _giving(trace, update, actual, [float(group.get("initial_lr", actual)), *rates])
    if computed is not None:
        return _in_function(trace, computed, once=once)
    if trace.schedulers:
        return trace.schedulers[-1]
    return now[-1].line if now else _of_group(trace, group, "lr", wanted)


def _giving(trace: RateLines, update: int, actual: float, peaks: Sequence[float]) -> _Computed | None:
    """The own function whose number is the rate, or a share of the peak: the innermost that torch's scheduler asks."""
    scales = [1.0, *peaks]
    found = [
        one
        for one in trace.computed
        if one.update == update
        and one.lines
        and any(isclose(one.value * scale, actual, rel_tol=1e-9, abs_tol=1e-18) for scale in scales)
        and (one.asked or one.value not in _TRIVIAL)
    ]
    return next((one for one in found if one.asked), found[-1] if found else None)


def _is_asked(frame: FrameType) -> bool:
    return frame.f_back is not None and "lr_scheduler" in frame.f_back.f_code.co_filename


def _is_right_at(trace: RateLines, run: Run, name: str, group: int, update: int) -> bool:
    held, declared = trace.held[update].get(group), run.hyperparameters(update)
    return held is not None and isclose(float(held["lr"]), float(declared[name]["lr"]), rel_tol=1e-6)


def _in_function(trace: RateLines, computed: _Computed, *, once: bool) -> Line:
    """Of its lines one that it did not run for a number that was right, and of these the last that computes.

    Where the next number is right, what such lines compute is: then it is the line that led there.
    """
    code = computed.lines[-1][0]
    good = {
        line
        for other in trace.computed
        if other.update < computed.update and other.lines and other.lines[-1][0] is code
        for line in other.lines
    }
    body = [line for line in computed.lines if line[0] is code and line[1] != code.co_firstlineno]
    ran = list(dict.fromkeys(body or computed.lines))
    pool = [line for line in ran if line not in good] or ran
    if once and len(pool) < len(ran):
        return ran[max(0, ran.index(pool[0]) - 1)]
    before_last = statement_at(pool[-2]) if len(pool) > 1 else None
    return pool[-1] if before_last is None or isinstance(before_last, ast.If | ast.For | ast.While) else pool[-2]


def _of_group(trace: RateLines, group: Group, key: str, wanted: Any) -> Line | None:
    """Where the group was made, or given a number that its maker had not got any more."""
    born, added = trace.born.get(id(group)), trace.added.get(id(group))
    if added is None:
        return None
    if born is None or key not in born.keys:
        return added.way[-1]
    return _handed(born, group, key, wanted) or born.way[-1]


def _handed(born: _Born, group: Group, key: str, wanted: Any) -> Line | None:
    """The innermost line on the way to a group whose function was given its number, or something that holds it."""
    if not isinstance(wanted, float | int) or float(wanted) in _TRIVIAL:
        return None
    for depth in range(len(born.frames) - 1, -1, -1):
        given = _arguments(born.frames[depth])
        of_key = {name: value for name, value in given.items() if name == key or name not in group}
        if _holds(of_key, float(wanted), _DEEPEST, set()):
            return born.way[depth]
    return None


def _of_peak(trace: RateLines, run: Run, name: str, group: Group, update: int) -> Line | None:
    """Where a group was given another peak: its rates are off by one ratio, and the right peak was in hands."""
    born, ratios = trace.born.get(id(group)), []
    for number in (update, update + 1):
        held = trace.held[number].get(id(group)) if number < len(trace.held) else None
        actual = float(held["lr"]) if held is not None else 0.0
        ratios.append(float(run.hyperparameters(number)[name]["lr"]) / actual if actual else 0.0)
    if born is None or not ratios[0] or not isclose(*ratios, rel_tol=1e-6):
        return None
    return _handed(born, group, "lr", float(group["initial_lr" if "initial_lr" in group else "lr"]) * ratios[0])


def _arguments(frame: FrameType) -> dict[str, Any]:
    return {name: frame.f_locals.get(name) for name in arguments_of(frame.f_code) if name != "self"}


def _holds(value: Any, wanted: float, depth: int, seen: set[int]) -> bool:
    """Whether a number is in a value, or in what it holds."""
    if isinstance(value, float | int):
        return not isinstance(value, bool) and isclose(float(value), wanted, rel_tol=1e-9)
    if depth == 0 or id(value) in seen or isinstance(value, str | torch.Tensor | torch.nn.Module):
        return False
    seen.add(id(value))
    if isinstance(value, Mapping):
        inside: Any = value.values()
    else:
        inside = value if isinstance(value, list | tuple) else getattr(value, "__dict__", {}).values()
    return any(_holds(one, wanted, depth - 1, seen) for one in inside)
