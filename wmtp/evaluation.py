"""How good a value head and a language model are on held-out rows. Nothing here changes what training sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ValueQuality:
    """A value head against predictors that know less. Losses are mean squared errors in squared reward units.

    Attributes:
        value_loss: the value head's.
        constant_loss: of the best constant, chosen on the same targets.
        position_loss: of the mean at each position, over the other rows.
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


class Predictions(NamedTuple):
    """What a value head says of held-out rows.

    Attributes:
        value_N: Float[N] values at real tokens, in reward units.
        target_N: Float[N] the returns they should have been, same units.
        position_N: Long[N] position of each token in its row.
        score_R: Float[R] one number a row.
    """

    value_N: Tensor
    target_N: Tensor
    position_N: Tensor
    score_R: Tensor


def value_quality(predictions: Predictions, right_R: Tensor) -> ValueQuality:
    """Compare predictions with their targets, and with what knows less.

    Args:
        predictions: at held-out real tokens.
        right_R: Bool[R] whether the row's reward is above the middle of all rewards.

    Returns:
        Losses and AUC as numbers.
    """
    value_N, target_N, position_N, score_R = predictions
    return ValueQuality(
        value_loss=float((value_N - target_N).square().mean()),
        constant_loss=float(target_N.var(unbiased=False)),
        position_loss=_position_loss(target_N, position_N),
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


def _position_loss(target_N: Tensor, position_N: Tensor) -> float:
    """Squared error of the mean target at the same position, each row left out of the mean it is judged by.

    A position that only one row reaches is predicted by the mean of all other tokens.
    """
    target_N = target_N.double()
    count_N = torch.bincount(position_N)[position_N]
    sum_N = torch.bincount(position_N, weights=target_N)[position_N]
    others_N = (target_N.sum() - target_N) / max(1, len(target_N) - 1)
    mean_N = torch.where(count_N > 1, (sum_N - target_N) / (count_N - 1).clamp(min=1), others_N)
    return float((target_N - mean_N).square().mean())
