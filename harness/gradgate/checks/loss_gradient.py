"""The gradient of a run's loss at one point, and the loss along any direction from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite

import torch
from torch import Tensor, nn

from gradgate.checks.finite_differences import derivative
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.stop_gradient import ReplayMismatchError, record, replay
from gradgate.checks.updates import gradient_of
from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Batch, Run

Directions = Mapping[nn.Parameter, Tensor]

_SMALLEST_SHARE = (
    1e-4  # of the loss: a smaller change for a change of all parameters by their own size is taken for none
)


class UnstableLossError(Exception):
    """The loss is no function of the parameters alone, so that no difference of it means anything."""


@dataclass(frozen=True, slots=True)
class Slope:
    """The loss's slope along one direction, in units of the loss.

    Args:
        by_backward: gradient times direction.
        by_differences: the measured slope.
        size: what either has for random signs of its summands; the unit of their distance.
    """

    by_backward: float
    by_differences: float
    size: float

    @property
    def disagreement(self) -> float:
        """How far the two are apart, as a share of their size."""
        return abs(self.by_differences - self.by_backward) / self.size


class LossGradient:
    """`losses(batch)["total"]` around the parameters that the run has now.

    Args:
        run: its parameters are moved during `slope` and put back.
        batch: the one batch.
        parameters: those to differentiate by.
        seed: of the random numbers, the same at each evaluation.

    Attributes:
        loss: its value.
        gradients: by parameter; zeros where the loss does not reach.
        precision: machine epsilon of the coarsest dtype on the graph.

    Raises:
        UnstableLossError: the same parameters and random numbers give two losses, or the loss is not finite.
        SubjectRaisedError: losses() or its backward raised.
    """

    def __init__(self, run: Run, batch: Batch, parameters: Sequence[nn.Parameter], seed: int) -> None:
        self._run, self._batch, self._seed = run, batch, seed
        with seeded(seed), calling("losses()"):
            total, self._tape = record(self._total)
        self.loss = float(total.detach())
        self.gradients = gradients_by_backward(total, parameters)
        self.precision = max(torch.finfo(dtype).eps for dtype in self._tape.dtypes | {total.dtype})
        coarse = total.dtype != torch.float64  # a float32 loss in a float64 run: its values are far apart
        self._roundoff = abs(self.loss) * torch.finfo(total.dtype).eps / 2 if coarse else 0.0
        if not isfinite(self.loss):
            raise UnstableLossError(f"the loss is {self.loss}")
        if self._replayed() != self.loss:
            raise UnstableLossError("two evaluations from the same random state give different losses")

    def slope(self, direction: Directions, tolerance: float) -> Slope | None:
        """The slope along a direction, by backward and by differences.

        Args:
            direction: a change of each parameter that is to move.
            tolerance: the differences' own error must be below a quarter of it, as a share of the slope's size.

        Returns:
            None where no step size gives differences as exact as that.

        Raises:
            UnstableLossError: at other parameters the loss takes another way.
        """
        products = [self.gradients[parameter] * change for parameter, change in direction.items()]
        by_backward = float(sum(product.sum() for product in products))
        size = float(sum(product.square().sum() for product in products)) ** 0.5
        size = max(size, _SMALLEST_SHARE * abs(self.loss), torch.finfo(torch.float64).tiny)
        apart = size * tolerance
        estimate = derivative(partial(self._moved, direction), apart / 4, self._roundoff, by_backward, apart)
        return None if estimate is None else Slope(by_backward, estimate.value, size)

    def change(self, direction: Directions) -> float:
        """By how much the loss itself, with nothing held constant, changes along a direction, as a share of it."""
        moved = self._at(direction, 1.0, lambda: plain_loss(self._run, self._batch, self._seed))
        return abs(moved - self.loss) / max(abs(self.loss), torch.finfo(torch.float64).tiny)

    def _moved(self, direction: Directions, x: float) -> float:
        return self._at(direction, x, self._replayed)

    @staticmethod
    def _at(direction: Directions, x: float, loss: Callable[[], float]) -> float:
        before = {parameter: parameter.detach().clone() for parameter in direction}
        try:
            with torch.no_grad():
                for parameter, change in direction.items():
                    parameter.add_(change, alpha=x)
            return loss()
        finally:
            with torch.no_grad():
                for parameter, value in before.items():
                    parameter.copy_(value)

    def _replayed(self) -> float:
        try:
            with seeded(self._seed):
                return float(replay(self._total, self._tape).detach())
        except ReplayMismatchError as mismatch:
            raise UnstableLossError(f"the loss takes another way at other parameters: {mismatch}") from mismatch

    def _total(self) -> Tensor:
        return total_loss(self._run, self._batch)


def plain_gradients(run: Run, batch: Batch, parameters: Sequence[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """The gradient of `losses(batch)["total"]`, by backward; zeros where it does not reach."""
    with calling("losses()"):
        total = total_loss(run, batch)
    return gradients_by_backward(total, parameters)


def plain_loss(run: Run, batch: Batch, seed: int) -> float:
    """The value of `losses(batch)["total"]` with these random numbers."""
    with seeded(seed), calling("losses()"):
        return float(total_loss(run, batch).detach())


def total_loss(run: Run, batch: Batch) -> Tensor:
    """`losses(batch)["total"]`.

    Raises:
        SubjectError: there is none, or it is no scalar tensor.
    """
    total = run.losses(batch).get("total")
    if not isinstance(total, Tensor) or total.numel() != 1:
        raise SubjectError(f"losses() must give a scalar tensor `total`, not {type(total).__name__}")
    return total


def random_direction(parameters: Sequence[nn.Parameter], generator: torch.Generator) -> dict[nn.Parameter, Tensor]:
    """Normal random changes of the size of each parameter's own elements (at least 0.01)."""
    return {parameter: _noise(parameter, generator) * _size(parameter) for parameter in parameters}


def move_to_a_generic_point(parameters: Sequence[nn.Parameter], generator: torch.Generator) -> None:
    """Change parameters by 1 % of their size, in place: no element stays exactly zero, no unit exactly at a kink."""
    with torch.no_grad():
        for parameter, change in random_direction(parameters, generator).items():
            parameter.add_(change, alpha=0.01)


def _size(parameter: nn.Parameter) -> float:
    return max(float(parameter.detach().square().mean().sqrt()), 0.01)


def _noise(parameter: nn.Parameter, generator: torch.Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return noise.to(parameter.device, parameter.dtype)


def gradients_by_backward(total: Tensor, parameters: Sequence[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """The gradient that a loss's backward leaves in each parameter, 0 where it leaves none; none stays in it."""
    for parameter in parameters:
        parameter.grad = None
    with calling('losses()["total"].backward()'):
        total.backward()
    gradients = {parameter: gradient_of(parameter) for parameter in parameters}
    for parameter in parameters:
        parameter.grad = None
    return {parameter: torch.zeros_like(parameter) if grad is None else grad for parameter, grad in gradients.items()}
