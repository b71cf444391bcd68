"""How the own lines of one process of several use what exchanges gradients: wrappers, modules called beside them, and
each backward."""

from __future__ import annotations

import ast
import dis
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradgate.checks.own_lines import argument_at, arguments_of, is_torch, place, statement_at
from gradgate.checks.rank_values import Point, Seen, ValueLines, plain
from gradgate.core.finding import Location

_UNUSUAL = 987_654_321
Started = Callable[[Mapping[nn.Parameter, str]], None]


@dataclass(frozen=True)
class Backward:
    """One backward.

    Args:
        at: the own line that leads to it, innermost.
        manager: the innermost own context manager around it, at its yield; None: there is none.
        entered: the line that enters that one.
        given: its arguments, as `plain`.
        sums: of each parameter's gradient behind it.
        loss: that it begins at.
    """

    at: Location | None
    manager: Location | None
    entered: Location | None
    given: Any
    sums: tuple[float, ...]
    loss: float = float("nan")


@dataclass
class Facts:
    """What a process saw.

    Args:
        seen: values of own lines.
        wrapped: lines that made a wrapper which exchanges gradients, and the parameters in it by number.
        beside: lines that gave the module which is called outside of any wrapper, and its parameters.
        backwards: of the first step.
        spread: whether some trained parameters are spread over the processes.
        unspread: whether some are not.
        kept: whether gradients of those have not been handed out behind the last backward.
        short: points whose value is of a lower precision than that of the run.
        error: what it raised.
    """

    seen: list[Seen] = field(default_factory=list)
    wrapped: list[tuple[Location | None, tuple[int, ...]]] = field(default_factory=list)
    beside: list[tuple[Location | None, tuple[int, ...]]] = field(default_factory=list)
    backwards: list[Backward] = field(default_factory=list)
    spread: bool = False
    unspread: bool = False
    kept: bool = False
    short: list[Point] = field(default_factory=list)
    error: str = ""


class FactLines(ValueLines):
    """Values, and how gradients are exchanged."""

    def __init__(self, source: Path | None, *, keeps: bool = False) -> None:
        super().__init__(source, keeps=keeps)
        self.facts = Facts()
        self.parameters: list[nn.Parameter] = []
        self._wrappers: list[tuple[Location | None, Any]] = []
        self._beside: list[tuple[Location | None, nn.Module]] = []
        self._open: dict[FrameType, tuple[Location | None, Any]] = {}
        self._given: dict[tuple[int, str], Location | None] = {}

    def entering(self, frame: FrameType) -> None:
        """Note wrappers, modules that are called, and context managers that are entered."""
        super().entering(frame)
        if not self.frames:
            return
        here = self.now()
        makes = is_torch(frame, "__init__") and isinstance(frame.f_locals.get("self"), DistributedDataParallel)
        if makes or is_torch(frame, "fully_shard"):
            self._wrappers.append((place(here), frame.f_locals.get("module")))
        elif is_torch(frame, "_call_impl") and torch.is_grad_enabled():
            module = frame.f_locals.get("self")
            if (
                isinstance(module, nn.Module)
                and not _in_wrapper(frame)
                and not self._in_module()
                and not _wraps(module)
            ):
                self._beside.append((self._callee(module), module))
        elif self.is_own(frame.f_code) and frame.f_back is not None and _is_contextlib(frame.f_back):
            given = tuple(plain(frame.f_locals.get(name)) for name in arguments_of(frame.f_code))
            self._open[frame] = (place(here), given)

    def behind(self, line: tuple[CodeType, int]) -> None:
        """Note modules that become an attribute."""
        super().behind(line)
        statement = statement_at(line)
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in (node for each in targets for node in ast.walk(each)):
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                    owner = self.frames[-1].f_locals.get(target.value.id)
                    if owner is not None:
                        self._given[id(owner), target.attr] = self._origin(statement)

    def note(self, point: Point, value: Any, frame: FrameType, line: int | None = None, given: Any = None) -> None:
        """Note also tensors of too low a precision."""
        super().note(point, value, frame, line, given)
        if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
            self.facts.short.append(point)

    def _in_module(self) -> bool:
        return any(isinstance(frame.f_locals.get("self"), nn.Module) for frame in self.frames)

    def _callee(self, module: nn.Module) -> Location | None:
        """Where the called module was given its name; the call itself where it has been by that name always."""
        line = self.now()
        statement = statement_at(line) if line else None
        for node in ast.walk(statement) if statement is not None else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
            ):
                owner = self.frames[-1].f_locals.get(node.func.value.id)
                if getattr(owner, node.func.attr, None) is module and (id(owner), node.func.attr) in self._given:
                    return self._given[id(owner), node.func.attr]
        return place(line)

    def _origin(self, statement: ast.Assign | ast.AnnAssign) -> Location | None:
        """The line of an assignment; of one that only hands on an argument which is a module, that of the argument."""
        frame = self.frames[-1]
        here = (frame.f_code, statement.lineno)
        arguments = arguments_of(frame.f_code)
        handed = [
            node.id
            for node in (ast.walk(statement.value) if statement.value is not None else ())
            if isinstance(node, ast.Name)
            and node.id in arguments
            and isinstance(frame.f_locals.get(node.id), nn.Module)
        ]
        if not handed or len(self.frames) < 2:
            return place(here)
        given = argument_at((self.frames[-2].f_code, self.at[-2]), frame.f_code, handed[-1])
        return place(given or here)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Trace the block, and look at gradients behind each backward."""
        before = torch.Tensor.backward

        def backward(loss: Tensor, *args: Any, **named: Any) -> None:
            before(loss, *args, **named)
            self._backward(float(loss.detach()) if loss.numel() == 1 else float("nan"))

        torch.Tensor.backward = backward  # type: ignore[method-assign,assignment]
        try:
            with self.on():
                yield
        finally:
            torch.Tensor.backward = before  # type: ignore[method-assign]

    def _backward(self, loss: float) -> None:
        open_now = [frame for frame in self._open if _is_suspended(frame)]
        manager = open_now[-1] if open_now else None
        entered, given = self._open[manager] if manager is not None else (None, None)
        at = place((manager.f_code, manager.f_lineno)) if manager is not None else None
        self.facts.backwards.append(Backward(place(self.now()), at, entered, given, self._sums(), loss))

        spread = [each for each in self.parameters if hasattr(each, "full_tensor") and each.requires_grad]
        self.facts.kept = bool(spread) and all(each.grad is None for each in spread)

    def _sums(self) -> tuple[float, ...]:
        grads = [parameter.grad for parameter in self.parameters]
        return tuple(
            0.0 if grad is None or hasattr(grad, "full_tensor") else float(grad.double().sum()) for grad in grads
        )

    def done(self, error: str = "") -> Facts:
        """What was seen, as a pickle carries it."""
        number = {id(parameter): n for n, parameter in enumerate(self.parameters)}

        def trained(module: Any) -> tuple[int, ...]:
            inner = module.parameters() if isinstance(module, nn.Module) else ()
            return tuple(number[id(each)] for each in inner if id(each) in number and each.requires_grad)

        self.facts.wrapped = [(where, trained(module)) for where, module in self._wrappers]
        self.facts.beside = [(where, trained(module)) for where, module in self._beside]
        spread = [hasattr(each, "full_tensor") for each in self.parameters if each.requires_grad]
        self.facts.spread, self.facts.unspread = any(spread), not all(spread)
        self.facts.seen, self.facts.error = self.seen, error
        return self.facts


def run_of(course: Callable[[Started], Any], lines: FactLines) -> tuple[Any, Facts]:
    """Trace a course; what it raises ends it.

    Args:
        course: called with what is to be told the parameters by name once they are there.
        lines: the trace.
    """

    def started(names: Mapping[nn.Parameter, str]) -> None:
        lines.parameters = list(names)

    value, error = None, ""
    torch.manual_seed(_UNUSUAL)  # seeding is seen, also where it is the seed of the check
    with lines.watching():
        try:
            value = course(started)
        except (Exception, SystemExit) as raised:
            error = repr(raised)
    return value, lines.done(error)


def _wraps(module: nn.Module) -> bool:
    return any(isinstance(inner, DistributedDataParallel) for inner in module.modules())


def _in_wrapper(frame: FrameType) -> bool:
    above: FrameType | None = frame
    while above is not None:
        if above.f_code is DistributedDataParallel.forward.__code__:
            return True
        above = above.f_back
    return False


def _is_contextlib(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename).name == "contextlib.py" and frame.f_code.co_name == "__enter__"


def _is_suspended(frame: FrameType) -> bool:
    code = frame.f_code.co_code
    return 0 <= frame.f_lasti < len(code) and "YIELD" in dis.opname[code[frame.f_lasti]]
