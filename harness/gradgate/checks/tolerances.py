"""How far a correct formula may be from the exact number: derived, not tuned.

`u` is the unit roundoff, half of `finfo.eps`: 2**-53 in float64, 2**-24 in float32. One correctly rounded operation is
off by at most u times its result. Formulas must compute in at least float32 whatever their input, so a bfloat16 or
float16 input is first widened without error and then costs float32's roundings.
Every bound is a worst case to first order, doubled for the terms of higher order: a stable implementation, whatever
the order of its sums, stays inside it with certainty, so that the false-alarm rate is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradgate.checks import oracles
from gradgate.checks.ahead import ahead

HALF = (torch.bfloat16, torch.float16)
# Specification: weights sum to 1 within 1e-6 for float32 input and 1e-3 for bfloat16 and float16 input. With H <= 8
# heads, float32 weights are off by at most (H + 6) * u = 8.3e-7 in their sum. Weights kept in bfloat16 are off by up to
# 2**-9 = 2e-3, so 1e-3 is what tells them from float32 weights without asking for the dtype.
WEIGHT_SUM = 1e-6
WEIGHT_SUM_HALF = 1e-3


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a formula must compute and answer in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def roundoff(dtype: torch.dtype) -> float:
    """u of the dtype that a formula computes in for inputs of `dtype`."""
    return float(torch.finfo(working_dtype(dtype)).eps) / 2


def weight_sum(dtype: torch.dtype) -> float:
    """Allowed distance from 1 of the sum of a position's weights, for values of `dtype`."""
    return WEIGHT_SUM_HALF if dtype in HALF else WEIGHT_SUM


def head_weight(
    value_BS: Tensor,
    valid_BS: Tensor,
    horizon: int,
    *,
    discount_lambda: float,
    temperature: float,
    document_BS: Tensor | None = None,
) -> Tensor:
    """Allowed error of each head weight.

    Let m = |v[t]| + lambda |v[t-1]| at the heads' targets. The delta (lambda rounded, a product, a difference) is off
    by 3 u m; the difference of two of them by 6 u m + 2 u m; the quotient by tau, and tau's own rounding, add
    2 u * 2 m / tau: a score is off by at most 12 u m / tau against the largest. The softmax's Jacobian has absolute row
    sums 2 w (1 - w) <= 1/2, so a weight is off by 6 u m / tau; exponential (4 u), sum (H u) and quotient (2 u) add
    (H + 6) u. Doubled, and never more than 1, as weights lie in [0, 1]. For bfloat16 and float16 values at least 1e-3,
    the specification's figure.

    Args:
        value_BS: Float[B, S], the values in the dtype in which the formula gets them.
        valid_BS: Bool[B, S].
        horizon: H.
        discount_lambda: the delta's lambda.
        temperature: of the softmax.
        document_BS: Long[B, S] where rows are packed.

    Returns:
        Double[B, S, 1], the bound for all heads of a position.
    """
    magnitude_BS = oracles.deltas(
        value_BS.detach().abs(), valid_BS, discount_lambda=-abs(discount_lambda), document_BS=document_BS
    )
    ahead_BS = ahead(magnitude_BS, horizon).amax(-1)
    u = roundoff(value_BS.dtype)
    allowed_BS = 12 * u * ahead_BS / temperature + 2 * (horizon + 6) * u
    floor = WEIGHT_SUM_HALF if value_BS.dtype in HALF else 0.0
    return allowed_BS.clamp(min=floor, max=1.0)[..., None]


def weight_gradient(
    weight_error: float, horizon: int, *, temperature: float, direction: float, dtype: torch.dtype
) -> float:
    """Allowed error of d(sum of c * w) / d(value), where |c| <= `direction` and weights are off by `weight_error`.

    One position gives delta j the gradient w_j (c_j - sum c w) / tau, off by ((H + 2) weight_error + 6 u) |c| / tau.
    A value enters two deltas (with factors 1 and lambda <= 1), a delta the weights of at most H positions: 2 H times
    that, doubled.
    """
    one_position = ((horizon + 2) * weight_error + 6 * roundoff(dtype)) * direction / temperature
    return 4 * horizon * one_position


def loss(logits_BSHV: Tensor, positions: int) -> float:
    """Allowed error of the loss, in nats, with weights given.

    With L the largest |logit| and C = 2 L + log V the largest cross-entropy: shifting and exponentiating cost 6 u L, a
    sum over V entries (V + 4) u in its logarithm, the label's term 2 u L; a sum of at most N H weighted terms and its
    quotient (N H + 4) u C. Doubled. Loss in the logits' own dtype is allowed, low precision included.
    """
    horizon, vocabulary = logits_BSHV.shape[-2:]
    largest = float(logits_BSHV.detach().double().abs().max()) if logits_BSHV.numel() else 0.0
    u = float(torch.finfo(logits_BSHV.dtype).eps) / 2
    cross_entropy = 2 * largest + math.log(vocabulary)
    return 2 * u * (8 * largest + vocabulary + 4 + (positions * horizon + 4) * cross_entropy)


def value_loss(value_BS: Tensor, return_BS: Tensor, valid_BS: Tensor) -> float:
    """Allowed error of the value loss, in squared reward units.

    With M = max(|v| + |return|): a difference is off by u M, so its square by 3 u M^2 at most (2 M u M, and its own
    rounding); a sum of n such terms and its quotient add (n + 1) u M^2. All terms are positive, so nothing cancels.
    Doubled.
    """
    count = int(valid_BS.sum())
    if not count:
        return 0.0
    largest = float((value_BS.detach().double().abs() + return_BS.double().abs())[valid_BS].max())
    return 2 * (count + 4) * roundoff(value_BS.dtype) * largest**2


def returns(reward_BS: Tensor, value_BS: Tensor, valid_BS: Tensor) -> float:
    """Allowed error of a return.

    A return is a sum of at most n discounted terms r + gamma v' - v over the row's n real tokens, each of magnitude at
    most M = max|r| + 2 max|v|; a term goes through at most 3 n + 8 roundings on its way, in whatever order it is
    summed: (3 n + 8) u n M. Doubled. It does not ask for gamma and lambda, since factors above 1 never arise in a
    stable scan.
    """
    count = int(valid_BS.sum(-1).max()) if valid_BS.numel() else 0
    reward_N, value_N = reward_BS[valid_BS].double().abs(), value_BS[valid_BS].detach().double().abs()
    magnitude = float(reward_N.max() + 2 * value_N.max()) if count else 0.0
    return 2 * (3 * count + 8) * roundoff(value_BS.dtype) * count * magnitude


def placed_reward(reward_B: Tensor) -> float:
    """Allowed error of a placed reward: one quotient, and the reward's own dtype to hold it. Doubled."""
    largest = float(reward_B.double().abs().max()) if reward_B.numel() else 0.0
    return 2 * float(torch.finfo(reward_B.dtype).eps) * largest


def argmax_limit(gap: float, temperature: float, horizon: int) -> float:
    """Largest distance from one-hot of a softmax whose best delta leads by `gap`: (H - 1) exp(-gap / tau)."""
    return (horizon - 1) * math.exp(-min(gap / temperature, 700.0))


def uniform_limit(spread: float, temperature: float) -> float:
    """Largest distance from uniform of softmax(delta / tau) whose deltas lie within `spread`.

    The Jacobian's absolute row sums are at most 1/2 and, against the centre, scores move by at most spread / (2 tau).
    """
    return spread / (4 * temperature)
