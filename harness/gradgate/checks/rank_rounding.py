"""How far float32 gradients of one global batch may be apart where its rows are shared out otherwise: derived.

The gradient is a sum over rows, g = sum_r c_r g_r, where g_r is the gradient of row r's own loss and c_r <= 1 its share
in the mean. u = 2**-24.

* A sum of R terms, in any order and any tree of processes, is off by at most gamma_R * sum_r |g_r|, with
  gamma_R = R u / (1 - R u) (Higham 2002, Accuracy and Stability of Numerical Algorithms, equation 4.4).
* A row's own gradient is off by its condition, which no formula knows and a measurement does: e_r = |g_r in float32 -
  g_r in float64|. Errors of rows are taken to add up.

So each way is off by at most D = gamma_R * sum_r |g_r| + (1 + gamma_R) * sum_r e_r, and two ways differ by 2 D.
Clipping multiplies both by a number c <= 1, which is off, relatively, by no more than the gradient is: as much again.
Norms are taken over all parameters: 4 * c * ||D||.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from gradgate.checks.raised import calling
from gradgate.checks.snapshot import named_parameters
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Run

UNIT = 2.0**-24
WAYS, CLIPPED = 2, 2
Gradients = Mapping[str, Any]  # by parameter, float64 arrays


def allowed(start: Callable[..., Run], seed: int, stepped: Gradients) -> float | None:
    """The bound on the norm of the difference, for the first batch of a run of one process.

    Args:
        start: starts that run.
        seed: of it.
        stepped: the gradients of that batch with which it steps, in float64: what clipping has left of them.

    Returns:
        In units of the gradient; None where the run has no `losses`, or its batches cannot be cut into rows.

    Raises:
        SubjectRaisedError: the subject does not start, or its losses raise.
    """
    (whole, exact), (_, rounded) = (_of_rows(start, seed, dtype) for dtype in (torch.float64, torch.float32))
    if not exact or not _norm(whole):
        return None
    gamma = len(exact) * UNIT / (1 - len(exact) * UNIT)
    off: dict[str, Any] = {}
    for row, same in zip(exact, rounded, strict=True):
        for name, gradient in row.items():
            off[name] = off.get(name, 0.0) + gamma * abs(gradient) + (1 + gamma) * abs(same[name] - gradient)
    return WAYS * CLIPPED * min(1.0, _norm(stepped) / _norm(whole)) * _norm(off)


def norm_apart(one: Gradients, other: Gradients) -> float:
    """The norm of the difference of two gradients, over all parameters; infinite where one lacks a parameter."""
    if one.keys() != other.keys():
        return math.inf
    return _norm({name: one[name] - other[name] for name in one})


def _norm(gradients: Gradients) -> float:
    return math.sqrt(sum(float(np.square(each).sum()) for each in gradients.values()))


def _of_rows(start: Callable[..., Run], seed: int, dtype: torch.dtype) -> tuple[Gradients, list[Gradients]]:
    """The gradient of the first batch's loss, and that of each row's own; nothing where there is no such."""
    with calling("start()"):
        run = start(seed, dtype=dtype, device="cpu")
    if not {"losses", "rows"} <= declared(run):
        return {}, []
    batch = next(iter(run.batches()))
    count = len(run.samples(batch)) if "samples" in declared(run) else len(run.valid(batch))
    named = {parameter: name for parameter, name in named_parameters(run).items() if parameter.requires_grad}
    return _of(run, batch, named), [_of(run, run.select_rows(batch, [index]), named) for index in range(count)]


def _of(run: Run, batch: Batch, named: Mapping[nn.Parameter, str]) -> Gradients:
    with calling("losses()"):
        loss = run.losses(batch)["total"]
    found = torch.autograd.grad(loss, list(named), allow_unused=True)
    pairs = zip(named.values(), found, strict=True)
    return {name: gradient.double().numpy() for name, gradient in pairs if gradient is not None}
