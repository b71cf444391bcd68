"""What a step leaves as it was while its losses are read: gradients, optimizers, schedules, scalers, what it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradgate.subjects.contract import Run

_SMALL = 2.0**-20  # of a gradient: no clipping is reached by it, and 16 bits have it
_DEPTH = 2  # attributes of attributes of what a step names
_LARGEST = 1000  # entries of a dictionary: one with more is a vocabulary, or rows, and no counts
FOREIGN = (type, ModuleType, nn.Module, Tensor, torch.optim.Optimizer, LRScheduler, Iterator)


@contextmanager
def gradients_kept(run: Run) -> Iterator[Callable[[], None]]:
    """Put the gradients of the run's parameters back behind the block, whatever it did to them.

    Yields:
        A function that gives a small gradient to each parameter without one: what a step asks of its gradients between
        backward and update finds some.
    """
    parameters = _parameters(run)
    gradients = [parameter.grad for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient.detach().clone()

    def fill() -> None:
        for parameter in parameters:
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, _SMALL, requires_grad=False)

    try:
        yield fill
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def _parameters(run: Run) -> list[nn.Parameter]:
    in_modules = [parameter for module in run.modules.values() for parameter in module.parameters()]
    groups = [group for optimizer in run.optimizers for group in optimizer.param_groups]
    return list(dict.fromkeys([*in_modules, *(parameter for group in groups for parameter in group["params"])]))


@contextmanager
def updates_withheld(
    optimizers: Sequence[torch.optim.Optimizer], asked: Callable[[int], object], other: Callable[[], object]
) -> Iterator[None]:
    """Let the steps of these optimizers, and of every schedule and scaler, do nothing within the block.

    Settings come back. A step that is given its loss as a closure calls that.

    Args:
        optimizers: the run's.
        asked: takes the index of each optimizer that is asked to step.
        other: called where another one is about to.
    """
    settings = [[dict(group) for group in optimizer.param_groups] for optimizer in optimizers]
    with ExitStack() as stack:
        stack.callback(register_optimizer_step_pre_hook(lambda *_: other()).remove)  # type: ignore[arg-type]
        for number, optimizer in enumerate(optimizers):
            stack.enter_context(patch.object(optimizer, "step", _asking(asked, number)))
        for kind in _with_own_step(LRScheduler) if optimizers else ():
            stack.enter_context(patch.object(kind, "step", _nothing))
        if optimizers:
            stack.enter_context(patch.multiple(torch.amp.GradScaler, **_SCALER))
        try:
            yield
        finally:
            for optimizer, groups in zip(optimizers, settings, strict=True):
                for group, before in zip(optimizer.param_groups, groups, strict=False):
                    group.update(before)


def _asking(asked: Callable[[int], object], number: int) -> Callable[..., Any]:
    def step(closure: Callable[[], Any] | None = None, *_: Any, **__: Any) -> Any:
        loss = closure() if closure is not None else None
        asked(number)
        return loss

    return step


def _nothing(*_: Any, **__: Any) -> None:
    return None


_SCALER: Mapping[str, Any] = {
    "scale": lambda _scaler, outputs: outputs,
    "unscale_": _nothing,
    "step": lambda _scaler, optimizer, *args, **options: optimizer.step(*args, **options),
    "update": _nothing,
}


def _with_own_step(kind: type[LRScheduler]) -> list[type[LRScheduler]]:
    """The class and those below it that define a `step`."""
    lower = [own for below in kind.__subclasses__() for own in _with_own_step(below)]
    return ([kind] if "step" in vars(kind) else []) + lower


_LEFT: ContextVar[ExitStack | None] = ContextVar("left", default=None)


@contextmanager
def numbers_left() -> Iterator[None]:
    """Let turns for losses leave the numbers that they move, as a step does; at the block's end all are what they were.

    For those who ask which of them go by the data.
    """
    with ExitStack() as stack:
        token = _LEFT.set(stack)
        try:
            yield
        finally:
            _LEFT.reset(token)


def at_its_end(put_back: Callable[[], object]) -> None:
    """Put back at the end of a turn, or of the block of `numbers_left` that it is in."""
    stack = _LEFT.get()
    if stack is None:
        put_back()
    else:
        stack.callback(put_back)


class Counts:
    """Whole and other numbers that the objects of a step hold as attributes, and its dictionaries by their keys.

    What iterates is left out: its place is not in its numbers alone.

    Args:
        values: of the step's local variables; attributes and entries are looked at two objects deep.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._held: dict[int, tuple[dict[Any, Any], dict[Any, Any]]] = {}
        level = list(values)
        for _ in range(_DEPTH):
            level = [value for owner in level for held in _tables(owner) for value in self._note(held)]

    def put_back(self) -> None:
        """Give each attribute and each key the number that it had; a key that a dictionary makes when asked goes."""
        for held, before in self._held.values():
            for name, number in before.items():
                if name in held and held[name] is not number:
                    held[name] = number
            if hasattr(held, "__missing__"):
                for name in [name for name in numbers_in(held) if name not in before]:
                    del held[name]

    def _note(self, held: dict[Any, Any]) -> Iterable[Any]:
        if id(held) in self._held:
            return ()
        self._held[id(held)] = held, numbers_in(held)
        return held.values()


def _tables(owner: Any) -> list[dict[Any, Any]]:
    """Where an object holds numbers: its attributes, and itself where it is a dictionary."""
    if isinstance(owner, FOREIGN):
        return []
    entries = owner if isinstance(owner, dict) and len(owner) <= _LARGEST else None
    return [held for held in (entries, getattr(owner, "__dict__", None)) if isinstance(held, dict)]


def numbers_in(held: Mapping[Any, Any]) -> dict[Any, Any]:
    """Those of a mapping's values that are numbers."""
    return {name: value for name, value in held.items() if isinstance(value, int | float)}
