"""What a step keeps inside: the local variables at its backward, for trainers that give no losses away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from gradgate.core.errors import SubjectError, nearest
from gradgate.subjects.contract import Run

TOTAL = "total"


class _ReachedError(BaseException):
    """Leaves the step at its backward. Not an Exception, so that a trainer's own `except Exception` lets it through."""


class StepLosses(Run):
    """Mixin for runs whose trainer computes its losses inside the step: they are read off where the step goes backward.

    Put it before the run's other bases: `class MyRun(StepLosses, TokenRows)`.

    Attributes:
        terms: loss term -> the local variable of the trainer's step that holds it at a backward. `total` is what the
            backward starts from, and is there without being named.
        backwards: how often the step goes backward before its updates are made: 2 for an actor and a critic with a loss
            each, the number of heads where each goes backward alone. `total` is then the sum of what they start from.
    """

    terms: ClassVar[Mapping[str, str]] = {}
    backwards: ClassVar[int] = 1

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The loss terms of a step that ends where its last backward begins."""
        with gradients_kept(self), updates_withheld(self.optimizers if self.backwards > 1 else ()):
            return loss_terms(at_backward(lambda: self.step(batch), self.backwards), self.terms)


def at_backward(call: Callable[[], Any], count: int = 1) -> dict[str, Any]:
    """Run a trainer's step up to a backward, its first, and give the local variables that it has there.

    No backward runs, and nothing behind the last: no gradient, no update. What the step did before, it did.

    Args:
        call: the step, `lambda: trainer.train_step(batch)`.
        count: of backwards to come to.

    Returns:
        Every local variable from the lines that call `backward` outwards to `call`, the innermost winning, then the
        latest, and `total`: the tensor that the backward starts from, on its graph; of several, their sum.

    Raises:
        SubjectError: the call came to its end without as many backwards.
    """
    found = Backwards()
    outermost = sys._getframe()

    def reached(tensor: Tensor, frame: FrameType) -> None:
        found.add(tensor, locals_from(frame, outermost))
        if found.count == count:
            raise _ReachedError

    with backward_replaced(reached):
        try:
            call()
        except _ReachedError:
            return found.variables
    many = f" {found.count} of {count}" if found.count else "out a"
    raise SubjectError(f"the step came to its end with{many} backward: there are no losses to be had from it")


class Backwards:
    """What was there at the backwards of a step: local variables, and `total`, the sum of what they start from."""

    def __init__(self) -> None:
        self.variables: dict[str, Any] = {}
        self.count = 0

    def add(self, tensor: Tensor, variables: Mapping[str, Any]) -> None:
        """Note one more backward."""
        before = self.variables.get(TOTAL)
        self.variables |= {**variables, TOTAL: tensor if before is None else before + tensor}
        self.count += 1


def loss_terms(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The loss terms among local variables: `total`, and each term by the variable that holds it.

    Args:
        found: from `at_backward`.
        names: loss term -> local variable.

    Raises:
        SubjectError: there is no such variable, or it holds no tensor.
    """
    terms: dict[str, Tensor] = {TOTAL: found[TOTAL]}
    for term, variable in names.items():
        if not isinstance(found.get(variable), Tensor):
            tensors = [name for name, held in found.items() if isinstance(held, Tensor)]
            raise SubjectError(
                f"{term}: no tensor {variable!r} at the step's backward{nearest(variable, tensors)}; "
                f"there are {', '.join(sorted(tensors))}"
            )
        terms[term] = found[variable]
    return terms


@contextmanager
def updates_withheld(optimizers: Sequence[torch.optim.Optimizer], stepped: set[int] | None = None) -> Iterator[None]:
    """Let the steps of these optimizers, and of every schedule, do nothing within the block; settings come back.

    Args:
        optimizers: the run's.
        stepped: takes the index of each optimizer that was asked to step.
    """
    settings = [[dict(group) for group in optimizer.param_groups] for optimizer in optimizers]
    with ExitStack() as stack:
        for number, optimizer in enumerate(optimizers):
            withheld = _note(stepped if stepped is not None else set(), number)
            stack.enter_context(patch.object(optimizer, "step", withheld))
        for kind in _with_own_step(LRScheduler) if optimizers else ():
            stack.enter_context(patch.object(kind, "step", lambda *_, **__: None))
        try:
            yield
        finally:
            for optimizer, groups in zip(optimizers, settings, strict=True):
                for group, before in zip(optimizer.param_groups, groups, strict=False):
                    group.update(before)


def _note(stepped: set[int], number: int) -> Callable[..., None]:
    return lambda *_, **__: stepped.add(number)


def _with_own_step(kind: type[LRScheduler]) -> list[type[LRScheduler]]:
    """The class and those below it that define a `step`."""
    lower = [own for below in kind.__subclasses__() for own in _with_own_step(below)]
    return ([kind] if "step" in vars(kind) else []) + lower


@contextmanager
def gradients_kept(run: Run) -> Iterator[None]:
    """Put the gradients of the run's parameters back behind the block, whatever it did to them."""
    parameters = [parameter for module in run.modules.values() for parameter in module.parameters()]
    gradients = [parameter.grad for parameter in parameters]
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def locals_from(frame: FrameType | None, outermost: FrameType | None = None) -> dict[str, Any]:
    """The local variables of a frame and of those that called it, up to `outermost`, which is left out."""
    found: dict[str, Any] = {}
    while frame is not None and frame is not outermost:
        found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found


@contextmanager
def backward_replaced(reached: Callable[[Tensor, FrameType], None]) -> Iterator[None]:
    """Let each backward of the block be a call of `reached` with its tensor and the frame that asked for it.

    What `backward` would refuse, more numbers than one without a gradient for them, is refused in its words.
    """
    method, function = torch.Tensor.backward, torch.autograd.backward

    def backward_method(tensor: Tensor, *args: Any, **options: Any) -> None:
        _require_scalar(tensor, args or options.get("gradient") is not None)
        reached(tensor, sys._getframe(1))

    def backward_function(tensors: Any, *args: Any, **options: Any) -> None:
        tensor = tensors if isinstance(tensors, Tensor) else next(iter(tensors))
        _require_scalar(tensor, args or options.get("grad_tensors") is not None)
        reached(tensor, sys._getframe(1))

    torch.Tensor.backward, torch.autograd.backward = backward_method, backward_function  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.backward, torch.autograd.backward = method, function  # type: ignore[method-assign]


def _require_scalar(tensor: Tensor, given: Any) -> None:
    if tensor.numel() != 1 and not given:
        raise RuntimeError("grad can be implicitly created only for scalar outputs")
