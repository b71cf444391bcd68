"""How good value predictions are: against constants, by position, and as a ranking. Pure; tensors in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor

from gradgate.subjects.contract import Fit


@dataclass(frozen=True, slots=True)
class Quality:
    """Held-out quality of a value head. Squared errors are in squared units of the targets.

    Args:
        mse: of the predictions.
        constant_mse: of the mean of these very targets: no constant is better.
        position_mse: of the mean target at each position, leave-one-out; NaN without positions.
        shuffled_mse: of the predictions against targets shuffled among the rows, each staying at its position: what is
            left of the head where it knows nothing about the row; NaN without positions.
        auc: probability that a right row scores above a wrong one, ties half; NaN without scores of both.
        auc_standard_error: of that.
        values: how many predictions there were.
    """

    mse: float
    constant_mse: float
    position_mse: float
    shuffled_mse: float
    auc: float
    auc_standard_error: float
    values: int

    @property
    def ratio(self) -> float:
        """`mse` over `constant_mse`: below 1 is better than the best constant. NaN where the targets are constant."""
        return self.mse / self.constant_mse if self.constant_mse > 0 else nan

    @property
    def shuffled_ratio(self) -> float:
        """`mse` over `shuffled_mse`: below 1 where the head tells rows apart. NaN where that is not known."""
        return self.mse / self.shuffled_mse if self.shuffled_mse > 0 else nan

    def measured(self) -> dict[str, float]:
        """All numbers by name, ready for an Outcome."""
        return {
            "mse_to_constant_ratio": self.ratio,
            "mse": self.mse,
            "constant_mse": self.constant_mse,
            "position_mse": self.position_mse,
            "mse_to_shuffled_ratio": self.shuffled_ratio,
            "auc": self.auc,
            "auc_standard_error": self.auc_standard_error,
            "values": self.values,
        }


def quality(fit: Fit) -> Quality | None:
    """The quality of a fit's value predictions; None where it has none, or no targets to them."""
    if fit.prediction_N is None or fit.target_N is None or not fit.prediction_N.numel():
        return None
    prediction_N, target_N = fit.prediction_N.detach().double().cpu(), fit.target_N.detach().double().cpu()
    area, error = (nan, nan) if fit.score_R is None or fit.right_R is None else auc(fit.score_R, fit.right_R)
    return Quality(
        mse=float((prediction_N - target_N).square().mean()),
        constant_mse=float((target_N - target_N.mean()).square().mean()),
        position_mse=nan if fit.position_N is None else position_mse(target_N, fit.position_N.cpu()),
        shuffled_mse=nan if fit.position_N is None else shuffled_mse(prediction_N, target_N, fit.position_N.cpu()),
        auc=area,
        auc_standard_error=error,
        values=target_N.numel(),
    )


def position_mse(target_N: Tensor, position_N: Tensor) -> float:
    """Squared error of the mean target at the same position, each target left out of its own mean.

    Args:
        target_N: Float[N].
        position_N: Long[N], >= 0. A position that occurs once is predicted by the mean of all others.

    Returns:
        In squared units of the targets.
    """
    count_P = torch.bincount(position_N).double()
    sum_P = torch.bincount(position_N, weights=target_N.double())
    others_N = count_P[position_N] - 1
    everybody_N = (target_N.sum() - target_N) / max(target_N.numel() - 1, 1)
    mean_N = torch.where(others_N > 0, (sum_P[position_N] - target_N) / others_N.clamp(min=1), everybody_N)
    return float((target_N - mean_N).square().mean())


def shuffled_mse(prediction_N: Tensor, target_N: Tensor, position_N: Tensor) -> float:
    """Squared error of the predictions where targets are shuffled among those at the same position, on average.

    Args:
        prediction_N: Float[N].
        target_N: Float[N].
        position_N: Long[N], >= 0. A position that occurs once keeps its target.

    Returns:
        The exact mean over all shuffles, in squared units: at each position every prediction meets every target.
    """
    prediction_N, target_N = prediction_N.double(), target_N.double()
    count_P = torch.bincount(position_N).double().clamp(min=1)
    mean_P = torch.bincount(position_N, weights=target_N) / count_P
    square_P = torch.bincount(position_N, weights=target_N.square()) / count_P
    each_N = prediction_N.square() - 2 * prediction_N * mean_P[position_N] + square_P[position_N]
    return float(each_N.mean())


def auc(score_R: Tensor, right_R: Tensor) -> tuple[float, float]:
    """Area under the ROC curve, and its standard error.

    Args:
        score_R: Float[R], higher for rows thought right.
        right_R: Bool[R].

    Returns:
        Mann-Whitney's U over the number of pairs, ties counted half; NaN where all rows are right, or all wrong.

    Source: Hanley and McNeil 1982, Radiology 143:29.
    """
    score_R, right_R = score_R.detach().double().cpu(), right_R.cpu().bool()
    right, wrong = score_R[right_R], score_R[~right_R]
    if not right.numel() or not wrong.numel():
        return nan, nan
    above = (right[:, None] > wrong).double() + 0.5 * (right[:, None] == wrong).double()
    area = float(above.mean())
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (right.numel() - 1) * (q1 - area**2) + (wrong.numel() - 1) * (q2 - area**2)
    return area, sqrt(max(variance, 0.0) / (right.numel() * wrong.numel()))
