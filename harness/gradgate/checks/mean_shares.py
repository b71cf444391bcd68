"""By what a loss is divided, read out of its own derivatives: every token of a mean over n of them counts 1/n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.value_shares import OFFSET, TERM, values_of
from gradgate.checks.without_dropout import without_dropout
from gradgate.subjects.contract import Batch, Run
from gradgate.subjects.outputs import logits_of

FAR = 1e6  # from any target
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Shares:
    """What each token counts in a term.

    Args:
        term: its name.
        share_N: Double[N], of the tokens that have any.
        unit: what counts, in the plural.
        shape: of the weights that the shares are sums of, [B, S, H]; empty: of none.
        whole_N: Bool[N], tokens whose share is of all heads; None: there are no heads.
    """

    term: str
    share_N: Tensor
    unit: str
    shape: tuple[int, ...] = ()
    whole_N: Tensor | None = None

    @property
    def whole_divisor(self) -> float | None:
        """The divisor where a share is of all heads, whose weights sum to 1 also where those of fewer do not; None:
        there are not two such places, or they differ."""
        whole = self.share_N[self.whole_N] if self.whole_N is not None else self.share_N[:0]
        if len(whole) < 2 or float(whole.max() - whole.min()) > ROUNDING * float(whole.max()):
            return None
        return 1.0 / float(whole[0])

    @property
    def divisor(self) -> float:
        """The divisor that the share furthest from 1/N stands for."""
        return 1.0 / float(self.share_N[(self.share_N * len(self.share_N) - 1).abs().argmax()])

    @property
    def distance(self) -> float:
        """The largest |N share - 1|."""
        return float((self.share_N * len(self.share_N) - 1).abs().max())

    @property
    def spread(self) -> float:
        """By how much of the largest share the smallest is less."""
        return 1.0 - float(self.share_N.min() / self.share_N.max())


def are_alike(shares: Shares | None) -> bool:
    """Whether each of N tokens counts 1/N; a count that is one off gives 1/(N + 1)."""
    return shares is not None and shares.distance <= 0.25 / len(shares.share_N)


def is_another_count(shares: Shares, rows: int) -> bool:
    """Whether N tokens count 1/M each, for a whole number M that is neither N, nor the rows, nor a multiple or a part:
    as in a mean over what some other mask counts."""
    number, divisor = len(shares.share_N), shares.divisor
    whole = round(divisor)
    if shares.spread > ROUNDING or abs(divisor - whole) > ROUNDING * divisor or whole in (0, number, rows):
        return False
    return bool(whole % number and number % whole)


def of_values(run: Run, batch: Batch, modules: Sequence[str], seed: int) -> Shares | None:
    """What each value counts in the value loss: half the second derivative of its squared error.

    A loss that is a straight line far from its target is Huber's, which halves the square of an error, or the smooth
    L1, whose line has the slope 1: what a value counts is read there.

    Args:
        run: a live run in float64.
        batch: one of its batches.
        modules: names of those that the term trains.
        seed: of the random state.

    Returns:
        None where no module returned the values, or the loss has no second derivative at them.
    """
    near = _derivatives(run, batch, modules, seed, OFFSET)
    if near is None:
        return None
    gradient_M, curvature_M = near
    counts_M = (gradient_M != 0) | (curvature_M != 0)  # an error of 0 has no gradient
    share_N = curvature_M[counts_M] / 2
    if not len(share_N) or not bool((share_N > 0).all()):
        return None
    shares = Shares(TERM, share_N, "values")
    if are_alike(shares):
        return shares
    slope_M, bend_M = _derivatives(run, batch, modules, seed, FAR) or near
    if bool((bend_M[counts_M] == 0).all() and (slope_M[counts_M] != 0).all()):
        halved, straight = Shares(TERM, 2 * share_N, "values"), Shares(TERM, slope_M[counts_M].abs(), "values")
        return straight if are_alike(straight) else halved
    return shares


def _derivatives(
    run: Run, batch: Batch, modules: Sequence[str], seed: int, offset: float
) -> tuple[Tensor, Tensor] | None:
    """Double[B S] twice: the first and second derivatives of the value loss by each value; None: there are none."""
    with calling("valid()"):
        valid_BS = run.valid(batch).cpu().bool()
    heads = [run.modules[name] for name in modules if name in run.modules]
    with seeded(seed), without_dropout(), values_of(heads, valid_BS, offset) as values, calling("losses()"):
        loss = run.losses(batch).get(TERM)
    if loss is None or not loss.requires_grad or len(values) != 1:
        return None
    (gradient,) = torch.autograd.grad(loss, values, create_graph=True, allow_unused=True)
    if gradient is None or not gradient.requires_grad:
        return None
    (curvature,) = torch.autograd.grad(gradient.sum(), values, materialize_grads=True)
    return gradient.detach().double().cpu().flatten(), curvature.detach().double().cpu().flatten()


def of_positions(run: Run, batch: Batch, seed: int) -> Shares | None:
    """What each position's cross-entropies sum to in the token loss, from softmax - onehot at its logits.

    Args:
        run: a live run in float64.
        batch: one of its batches.
        seed: of the random state.

    Returns:
        None where the logits [B, S, H, V] were not seen, or not one term but `total` comes from them.
    """
    kept = logits_of(run.modules[str(run.logits_from)])
    with seeded(seed), without_dropout(), kept as outputs, calling("losses()"):
        terms = dict(run.losses(batch))
    terms = {name: term for name, term in terms.items() if name != "total"} or terms
    if len(outputs) != 1 or outputs[0].dim() != 4:
        return None
    logits_BSHV = outputs[0]
    found = {name: torch.autograd.grad(term, logits_BSHV, retain_graph=True, allow_unused=True)[0]
             for name, term in terms.items() if term.requires_grad}  # fmt: skip
    sizes = {name: float(gradient.abs().max()) for name, gradient in found.items() if gradient is not None}
    reached = {name: found[name] for name, size in sizes.items() if size > ROUNDING * max(sizes.values())}
    if len(reached) != 1:
        return None
    ((name, gradient_BSHV),) = reached.items()
    lowest_BSH, label_BSH = gradient_BSHV.min(-1)
    chance_BSH = torch.softmax(logits_BSHV.detach().double(), -1).gather(-1, label_BSH[..., None])[..., 0]
    share_BSH = -lowest_BSH.double().clamp(max=0.0) / (1 - chance_BSH)
    share_BS = share_BSH.sum(-1)
    share_N, whole_N = share_BS[share_BS > 0].cpu(), (share_BSH > 0).all(-1)[share_BS > 0].cpu()
    return Shares(name, share_N, "positions", tuple(label_BSH.shape), whole_N) if len(share_N) else None
