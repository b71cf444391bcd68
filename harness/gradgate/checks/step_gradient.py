"""The gradient with which the optimizers really step, held against the gradient of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradgate.checks.batches import first_difference
from gradgate.checks.loss_gradient import plain_gradients
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.updates import Update, gradients_at_updates, parameters_of
from gradgate.subjects.contract import Batch, Run
from gradgate.subjects.global_state import GlobalState

Gradients = Mapping[nn.Parameter, Tensor]

_NOISE = 1e-9  # share of the whole gradient's norm below which one parameter's gradient is roundoff


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one optimizer's gradient relates to the loss's.

    Args:
        factor: the one number by which the loss's gradient is multiplied.
        norm: of the gradient at the update, all parameters together.
        cosine: between the two, all parameters together.
        parameter: the one that is furthest off.
        error: how far, as a share of its own gradient after the factor.
        clipped_by_value: whether it is the loss's gradient cut off at one number.
    """

    factor: float
    norm: float
    cosine: float
    parameter: nn.Parameter
    error: float
    clipped_by_value: bool


@dataclass(frozen=True, slots=True)
class StepComparison:
    """One real step against the loss's gradient.

    Args:
        agreements: one for each optimizer that steps, at its first step; none where no torch optimizer does.
        same_random_numbers: whether step and loss drew as many numbers from the global generators.
    """

    agreements: list[Agreement]
    same_random_numbers: bool


def compare_step(run: Run, batch: Batch, parameters: Sequence[nn.Parameter], seed: int) -> StepComparison:
    """Take the gradient of the loss, then a real step from the same random state, and compare.

    Args:
        run: it is stepped.
        batch: for both.
        parameters: whose gradients to compare.
        seed: of the random state.
    """
    with seeded(seed):
        gradients = plain_gradients(run, batch, parameters)
        drawn = GlobalState.now().rng
    with seeded(seed), gradients_at_updates(parameters) as updates, calling("step()"):
        run.step(batch)
        same = first_difference(drawn, GlobalState.now().rng) is None
    first: dict[int, Update] = {}
    for update in updates:
        first.setdefault(id(update.optimizer), update)
    found = [_agreement(update, gradients) for update in first.values()]
    return StepComparison([agreement for agreement in found if agreement is not None], same)


def _agreement(update: Update, gradients: Gradients) -> Agreement | None:
    held = [parameter for parameter in gradients if parameter in parameters_of(update.optimizer)]
    if not held:
        return None
    ours = {parameter: gradients[parameter].double() for parameter in held}
    theirs = {parameter: _dense(update.gradients[parameter], parameter) for parameter in held}
    our_norm, their_norm = _norm(ours), _norm(theirs)
    product = float(sum((ours[parameter] * theirs[parameter]).sum() for parameter in held))
    factor = product / our_norm**2 if our_norm else float(their_norm == 0)
    cosine = product / (our_norm * their_norm) if our_norm * their_norm else float(our_norm == their_norm)
    scaled = {parameter: grad * factor for parameter, grad in ours.items()}
    parameter, error = _furthest(scaled, theirs)
    return Agreement(factor, their_norm, cosine, parameter, error, _is_clamped(ours, theirs))


def _furthest(expected: Gradients, actual: Gradients) -> tuple[nn.Parameter, float]:
    floor = max(_NOISE * _norm(expected), torch.finfo(torch.float64).tiny)
    errors = {
        parameter: float((actual[parameter] - grad).norm()) / max(float(grad.norm()), floor)
        for parameter, grad in expected.items()
    }
    worst = max(errors, key=lambda parameter: errors[parameter])
    return worst, errors[worst]


def _is_clamped(ours: Gradients, theirs: Gradients) -> bool:
    bound = max(float(grad.abs().max()) for grad in theirs.values())
    clamped = {parameter: grad.clamp(-bound, bound) for parameter, grad in ours.items()}
    return (
        bound > 0
        and any(bool((grad.abs() > bound).any()) for grad in ours.values())
        and _furthest(clamped, theirs)[1] <= 1e-6
    )


def _norm(gradients: Gradients) -> float:
    return float(sum(grad.square().sum() for grad in gradients.values()) ** 0.5)


def _dense(grad: Tensor | None, parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter, dtype=torch.float64) if grad is None else grad.double()
