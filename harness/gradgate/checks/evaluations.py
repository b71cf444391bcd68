"""What the evaluation of a fresh run says, held against that of another one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

import torch

from gradgate.checks.checkpoints import fresh
from gradgate.checks.moved import runs_of, take_parameters
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage

ALLOWED = 1e-3  # relative change of a number: far above the rounding of other sums in float32
_OF_WORK = re.compile(r"batch|time|second|(^|[_/.])sec|per_s|speed|throughput|memory|elapsed|steps")

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Change:
    """The number of an evaluation that settings change the most.

    Args:
        options: the settings.
        name: of the number.
        plain: what it is without them.
        moved: what it is with them.
        distance: the relative change.
    """

    options: Mapping[str, Any]
    name: str
    plain: float
    moved: float
    distance: float


def evaluated_apart(
    stage: Stage,
    context: Context,
    moves: Iterable[Mapping[str, Any]],
    finding: Callable[[Change], Finding],
    otherwise: str,
) -> Outcome:
    """The outcome of evaluating fresh runs with the same parameters and other settings.

    Args:
        stage: whose runs they are.
        context: of the check.
        moves: the settings, one after the other.
        finding: what is told of a number that changes by more than is allowed.
        otherwise: what is told where no run with other settings can be compared.
    """
    base = fresh(stage, context, context.seed)
    plain = _evaluated(base, context.seed)
    if _draws(stage, context, plain):
        return Outcome(inconclusive="two evaluations with two seeds differ: it draws random numbers")
    worst, compared = 0.0, 0
    findings: list[Finding] = []
    for options in moves:
        moved = _evaluated_with(stage, context, options, base)
        if moved is None:
            continue
        compared += 1
        distance, name = _furthest(plain, moved)
        worst = max(worst, distance)
        if distance > ALLOWED:
            findings.append(finding(Change(options, name, plain[name], moved[name], distance)))
    if not compared:
        return Outcome(inconclusive=otherwise)
    return Outcome(tuple(findings), {"relative_change": worst, "compared": compared}, {"relative_change": ALLOWED})


def _evaluated(run: Run, seed: int) -> Numbers:
    """What an evaluation says, by name; numbers of its own work, and what is not finite, left out."""
    with seeded(seed), without_dropout(), calling("evaluate()"):
        found = dict(_flat("", run.evaluate()))
    return {name: number for name, number in found.items() if isfinite(number) and not _OF_WORK.search(name.lower())}


def _draws(stage: Stage, context: Context, plain: Numbers) -> bool:
    """Whether another seed of the evaluation alone gives other numbers than these of `context.seed`."""
    return _furthest(plain, _evaluated(fresh(stage, context, context.seed), context.seed + 1))[0] > 0


def _evaluated_with(stage: Stage, context: Context, options: Mapping[str, Any], base: Run) -> Numbers | None:
    """What a run with these options and the parameters of another says; None where there is no such run.

    What does not start so is left to GG414.
    """
    run = next((run for _, run in runs_of(stage, context, [options], torch.float32)), None)
    return None if run is None or not take_parameters(run, base) else _evaluated(run, context.seed)


def _furthest(one: Numbers, other: Numbers) -> tuple[float, str]:
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
