"""Whether rows of a batch are weighed against each other: whether a term of two is any sum of what each gives alone."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from gradgate.checks.invariance import Distance, Probe, elements, rows_of
from gradgate.checks.raised import calling
from gradgate.subjects.contract import Batch

PAIRS = 3  # rows whose pairs are looked at


def are_coupled(probe: Probe, batch: Batch) -> bool:
    """Whether some term weighs rows against each other: by a statistic of the batch, or in pairs."""
    pairs = combinations(range(min(rows_of(batch), PAIRS)), 2)
    return any(distance.is_beyond for pair in pairs for distance in of_pair(probe, batch, pair))


def of_pair(probe: Probe, batch: Batch, pair: tuple[int, int]) -> list[Distance]:
    """How far each term's gradient on two rows is from any combination of those on each alone; a sum is no term."""
    with calling("select_rows()"):
        first, second, both = (probe.run.select_rows(batch, rows) for rows in ([pair[0]], [pair[1]], list(pair)))
    ours, theirs, together = probe(first), probe(second), probe(both)
    noise, count = probe.noise(both, together), elements(both)
    found = []
    for name, gradient in together.gradients.items():
        alone = torch.stack([ours.gradients[name], theirs.gradients[name]], 1)
        is_sum = name == "total" and len(together.gradients) > 1
        whole = bool(alone.isfinite().all()) and bool(gradient.isfinite().all())
        if is_sum or not whole or not (bool(alone.any()) or bool(gradient.any())):
            continue
        rest, weight = _rest(alone, gradient)
        label = f"the gradient of `{name}`"
        size = float(gradient.norm())
        allowed = 2 * count * (1 + weight) * (noise[label] + probe.unit * max(size, float(alone.norm())))
        found.append(Distance(label, rest, allowed, size))
    return found


def _rest(alone: Tensor, gradient: Tensor) -> tuple[float, float]:
    """What least squares leave of a gradient [P] against two columns [P, 2], and the sum of the weights' magnitudes."""
    weight = torch.linalg.lstsq(alone, gradient[:, None], driver="gelsd").solution
    return float((gradient - (alone @ weight)[:, 0]).norm()), float(weight.abs().sum())
