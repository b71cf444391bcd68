"""What a step keeps inside: the local variables at its backward, for trainers that give no losses away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradgate.core.errors import SubjectError, nearest
from gradgate.subjects.contract import Run

TOTAL = "total"


class _ReachedError(BaseException):
    """Leaves the step at its backward. Not an Exception, so that a trainer's own `except Exception` lets it through."""


class StepLosses(Run):
    """Mixin for runs whose trainer computes its losses inside the step: they are read off where the step goes backward.

    Put it before the run's other bases: `class MyRun(StepLosses, TokenRows)`.

    Attributes:
        terms: loss term -> the local variable of the trainer's step that holds it at the backward. `total` is what the
            backward starts from, and is there without being named.
    """

    terms: ClassVar[Mapping[str, str]] = {}

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The loss terms of a step that ends where its backward begins."""
        with gradients_kept(self):
            return loss_terms(at_backward(lambda: self.step(batch)), self.terms)


def at_backward(call: Callable[[], Any]) -> dict[str, Any]:
    """Run a trainer's step up to its first backward, and give the local variables that it has there.

    Neither the backward nor anything behind it runs: no gradient, no update. What the step did before, it did.

    Args:
        call: the step, `lambda: trainer.train_step(batch)`.

    Returns:
        Every local variable from the line that calls `backward` outwards to `call`, the innermost winning, and `total`:
        the tensor that the backward starts from, on its graph.

    Raises:
        SubjectError: the call came to its end without a backward.
    """
    found: dict[str, Any] = {}
    outermost = sys._getframe()

    def reached(tensor: Tensor, frame: FrameType) -> None:
        found.update(locals_from(frame, outermost) | {TOTAL: tensor})
        raise _ReachedError

    with backward_replaced(reached):
        try:
            call()
        except _ReachedError:
            return found
    raise SubjectError("the step came to its end without a backward: there are no losses to be had from it")


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
    """Let each backward of the block be a call of `reached` with its tensor and the frame that asked for it."""
    method, function = torch.Tensor.backward, torch.autograd.backward

    def backward_method(tensor: Tensor, *_args: Any, **_options: Any) -> None:
        reached(tensor, sys._getframe(1))

    def backward_function(tensors: Any, *_args: Any, **_options: Any) -> None:
        reached(tensors if isinstance(tensors, Tensor) else next(iter(tensors)), sys._getframe(1))

    torch.Tensor.backward, torch.autograd.backward = backward_method, backward_function  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.backward, torch.autograd.backward = method, function  # type: ignore[method-assign]
