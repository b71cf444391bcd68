"""The learning rate on trial: the same steps from the same start, at the subject's own rate and at a tenth of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from math import inf, isfinite
from statistics import fmean
from typing import Any

import torch

from gradgate.checks.raised import calling
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Run, Stage

SHARE = 0.1
STEPS = 64
LOOKS = 16  # batches behind the last step, whose mean loss is where a trial ended


def tenth_gain(stage: Stage, seed: int, device: str) -> float | None:
    """How much lower the loss ends at a tenth of the rate, as a share of where it ends at the full one.

    Returns:
        Below 0 where the full rate learns more, as it should in so few steps; infinite where the loss at the full rate
        is not finite; None where the run has no `losses` or no optimizers.

    Raises:
        SubjectRaisedError: the stage does not start or step.
    """
    with calling("start()"):
        run = stage.start(seed, device=device)
    if "losses" not in declared(run) or not run.optimizers:
        return None
    full = _ends_at(run)
    with calling("start()"):
        run = stage.start(seed, device=device)
    with _at(SHARE, run):
        tenth = _ends_at(run)
    if not isfinite(full):
        return inf
    return (full - tenth) / abs(full) if full else 0.0


def _ends_at(run: Run) -> float:
    """Steps, and the mean loss on the batches behind them; the same batches for the same seed."""
    batches = run.batches()
    for number, batch in enumerate(islice(batches, STEPS), 1):
        with calling(f"step {number}"):
            run.step(batch)
    with torch.no_grad(), calling("losses()"):
        return fmean(float(run.losses(batch)["total"].detach()) for batch in islice(batches, LOOKS))


@contextmanager
def _at(share: float, run: Run) -> Iterator[None]:
    """Every optimizer steps with this share of the rate that its groups have by then; they show the full one."""
    held: dict[int, list[Any]] = {}

    def lower(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        held[id(optimizer)] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * share

    def restore(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, held[id(optimizer)], strict=True):
            group["lr"] = rate

    handles = [one.register_step_pre_hook(lower) for one in run.optimizers]
    handles += [one.register_step_post_hook(restore) for one in run.optimizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
