"""What whole fits go through, as it is stored and as it is held against what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite

from gradgate.checks.fits import fit
from gradgate.checks.isolation import isolated
from gradgate.core.errors import SubjectError
from gradgate.gates.trajectories import Trajectory
from gradgate.subjects.contract import Context, Fit, Stage, Subject

SEEDS = range(8)  # of a record: its spread has seven degrees of freedom
HELD_OUT = "heldout_loss"


def series_of(found: Fit) -> dict[str, tuple[float, ...]]:
    """The held-out losses of a fit, and each number of its steps; those without a value are left out."""
    named: Mapping[str, Sequence[float]] = {HELD_OUT: found.curve, **(found.steps or {})}
    return {name: tuple(map(float, values)) for name, values in named.items() if len(values)}


def recorded(subject: Subject, stage: Stage, device: str, jobs: int) -> dict[str, Trajectory]:
    """The trajectories of a stage over the seeds of a record; empty for a stage without `fit`.

    Raises:
        SubjectError: a fit is none, or has a number that is not finite.
        SubjectRaisedError: a fit raised.
    """
    if stage.fit is None:
        return {}
    with isolated(SEEDS[0], "trajectories"):
        fits = [series_of(fit(subject, stage, seed, Context(device=device, jobs=jobs))) for seed in SEEDS]
    names = [name for name in fits[0] if all(name in each for each in fits)]
    for name in names:
        if not all(map(isfinite, chain.from_iterable(each[name] for each in fits))):
            raise SubjectError(f"`{name}` of a fit of stage {stage.name!r} is not finite: nothing to go by")
    return {name: Trajectory.of([each[name] for each in fits]) for name in names}
