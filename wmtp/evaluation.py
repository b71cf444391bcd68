"""How good a value head and a language model are on held-out rows. Nothing here changes what training sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ValueQuality:
    """A value head against predictors that know less. Losses are mean squared errors in squared reward units.

    Attributes:
        value_loss: the value head's.
        constant_loss: of the best constant, chosen on the same targets.
        position_loss: of the best number for each position, chosen on the other half of the rows.
        auc: chance that a right row scores higher than a wrong one; 0.5 says nothing. NaN without both kinds.
    """

    value_loss: float
    constant_loss: float
    position_loss: float
    auc: float


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; modes as they were, and the same random numbers, behind it."""
    modes = [(module, module.training) for module in model.modules()]
    state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        torch.set_rng_state(state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


def value_quality(
    prediction_N: Tensor, target_N: Tensor, position_N: Tensor, row_N: Tensor, score_R: Tensor, right_R: Tensor
) -> ValueQuality:
    """Compare predictions at held-out real tokens with their targets.

    Args:
        prediction_N: Float[N] values in reward units.
        target_N: Float[N] returns in reward units.
        position_N: Long[N] position of each token in its row.
        row_N: Long[N] the row of each token.
        score_R: Float[R] one number a row.
        right_R: Bool[R] whether the row's reward is above the middle of all rewards.

    Returns:
        Losses and AUC as numbers.
    """
    return ValueQuality(
        value_loss=float((prediction_N - target_N).square().mean()),
        constant_loss=float(target_N.var(unbiased=False)),
        position_loss=_position_loss(target_N, position_N, row_N),
        auc=auc(score_R, right_R),
    )


def auc(score_R: Tensor, right_R: Tensor) -> float:
    """Area under the ROC curve: P(right scores higher than wrong) + ½ P(tie), by rank (Mann and Whitney 1947)."""
    right, wrong = score_R[right_R], score_R[~right_R]
    if not len(right) or not len(wrong):
        return float("nan")
    higher = (right.unsqueeze(1) > wrong).double().mean()
    tied = (right.unsqueeze(1) == wrong).double().mean()
    return float(higher + 0.5 * tied)


def _position_loss(target_N: Tensor, position_N: Tensor, row_N: Tensor) -> float:
    """Mean target by position, fitted on the rows of even number and judged on the odd ones, and vice versa."""
    squared = torch.zeros((), dtype=torch.float64)
    even_N = row_N % 2 == 0
    for fit_N, judge_N in ((even_N, ~even_N), (~even_N, even_N)):
        size = int(position_N.max()) + 1
        total = torch.zeros(size, dtype=torch.float64).scatter_add(0, position_N[fit_N], target_N[fit_N].double())
        count = torch.zeros(size, dtype=torch.float64).scatter_add(0, position_N[fit_N], fit_N[fit_N].double())
        overall = target_N[fit_N].double().mean() if bool(fit_N.any()) else torch.zeros((), dtype=torch.float64)
        mean = torch.where(count > 0, total / count.clamp(min=1), overall)
        squared += (target_N[judge_N].double() - mean[position_N[judge_N]]).square().sum()
    return float(squared / len(target_N))
