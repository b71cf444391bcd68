"""What the evaluation of a fresh run says, held against that of another one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isfinite
from numbers import Real
from typing import Any

import torch

from gradgate.checks.moved import runs_of, take_parameters
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.without_dropout import without_dropout
from gradgate.subjects.contract import Context, Run, Stage

ALLOWED = 1e-3  # relative change of a number: far above the rounding of other sums in float32
DRAWS = "two evaluations with two seeds differ: it draws random numbers"
_OF_WORK = re.compile(r"batch|time|second|(^|[_/.])sec|per_s|speed|throughput|memory|elapsed|steps")

Numbers = Mapping[str, float]


def started(stage: Stage, context: Context) -> Run:
    """A fresh run as it is configured."""
    with calling("start()"):
        return stage.start(context.seed, device=context.device)


def evaluated(run: Run, seed: int) -> Numbers:
    """What an evaluation says, by name; numbers of its own work, and what is not finite, left out."""
    with seeded(seed), without_dropout(), calling("evaluate()"):
        found = dict(_flat("", run.evaluate()))
    return {name: number for name, number in found.items() if isfinite(number) and not _OF_WORK.search(name.lower())}


def draws(stage: Stage, context: Context, plain: Numbers) -> bool:
    """Whether another seed of the evaluation alone gives other numbers than these of `context.seed`."""
    return furthest(plain, evaluated(started(stage, context), context.seed + 1))[0] > 0


def evaluated_with(stage: Stage, context: Context, options: Mapping[str, Any], base: Run) -> Numbers | None:
    """What a run with these options and the parameters of another says; None where there is no such run.

    What does not start so is left to GG414.
    """
    run = next((run for _, run in runs_of(stage, context, [options], torch.float32)), None)
    return None if run is None or not take_parameters(run, base) else evaluated(run, context.seed)


def furthest(one: Numbers, other: Numbers) -> tuple[float, str]:
    """The largest relative change of a number that both have, and its name."""
    changes = [
        (abs(other[name] - number) / max(abs(number), abs(other[name]), 1e-12), name)
        for name, number in one.items()
        if name in other
    ]
    return max(changes, default=(0.0, ""))


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield from _flat(f"{name}/{key}" if name else str(key), held)
    elif isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.numel() == 1):
        yield name, float(value)
