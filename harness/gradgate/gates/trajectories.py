"""Trajectories of whole fits over seeds: stored against fresh, point by point and on the mean residual. Pure; no torch.

Everything is in logarithms where all that is stored is above 0, so that differences are relative; else as a share of
the stored values' mean size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, log, sqrt
from statistics import fmean, stdev
from typing import Any

from gradgate.gates.stats import student_bound

POINTS = 12  # of a trajectory: parts of about equal length, each by its mean
FLOOR = 1e-3  # relative; float32 sums in another order moved whole runs by 1.1e-4


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One number of a fit along its way, at several seeds.

    Args:
        lengths: how many values the fit of each seed had.
        points: for each seed the means of as many parts of its values.
    """

    lengths: tuple[int, ...]
    points: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, series: Sequence[Sequence[float]]) -> Trajectory:
        """From the values of each seed, to six digits."""
        count = min(POINTS, *map(len, series))
        rounded = [tuple(float(f"{value:.6g}") for value in in_parts(values, count)) for values in series]
        return cls(tuple(map(len, series)), tuple(rounded))

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        return {"lengths": list(self.lengths), "points": [list(row) for row in self.points]}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Trajectory:
        """From JSON."""
        return cls(tuple(tree["lengths"]), tuple(tuple(row) for row in tree["points"]))

    def fits(self, length: int) -> bool:
        """Whether a fit of this many values went as far as the stored ones."""
        return min(self.lengths) <= length <= max(self.lengths)


@dataclass(frozen=True, slots=True)
class Departure:
    """How far fresh fits are from the stored ones; relative, positive where they are higher.

    Args:
        mean: residual, over all points and seeds.
        mean_allowed: its tolerance.
        at: the point whose residual is largest for its tolerance, from 0.
        point: residual there, over the seeds.
        point_allowed: its tolerance.
    """

    mean: float
    mean_allowed: float
    at: int
    point: float
    point_allowed: float

    @property
    def drifted(self) -> bool:
        """Whether the mean residual is beyond its tolerance."""
        return not abs(self.mean) <= self.mean_allowed

    @property
    def left(self) -> bool:
        """Whether a point is beyond its tolerance."""
        return not abs(self.point) <= self.point_allowed

    @property
    def departed(self) -> bool:
        """Whether either is."""
        return self.drifted or self.left


def in_parts(values: Sequence[float], count: int) -> tuple[float, ...]:
    """Means of so many parts of about equal length, in order."""
    edges = [i * len(values) // count for i in range(count + 1)]
    return tuple(fmean(values[begin:end]) for begin, end in pairwise(edges))


def departure(stored: Trajectory, fresh: Sequence[Sequence[float]], alpha: float) -> Departure:
    """Hold fits of one or more fresh seeds against the stored ones.

    Args:
        stored: of two seeds or more.
        fresh: the values of each fresh seed, at least as many as there are points.
        alpha: probability at which seeds of the stored kind are called departed; half of it for the mean residual,
            half for all points together (Bonferroni).

    Returns:
        Both residuals and their tolerances: t * s * sqrt(1/n + 1/m), where s is the spread of the m stored seeds, n the
        number of fresh ones, t the two-sided Student bound of m - 1 degrees of freedom; never below `FLOOR`.
    """
    seeds, width = len(stored.points), len(stored.points[0])
    scaled = _scale(stored)
    before = [[scaled(value) for value in row] for row in stored.points]
    after = [[scaled(value) for value in in_parts(values, width)] for values in fresh]
    share = sqrt(1 / len(fresh) + 1 / seeds)
    mean_bound = student_bound(seeds - 1, alpha / 2) * share
    point_bound = student_bound(seeds - 1, alpha / 2 / width) * share
    residuals = [
        _apart(column_after, column) for column_after, column in zip(_turned(after), _turned(before), strict=True)
    ]
    allowed = [max(FLOOR, point_bound * stdev(column)) for column in _turned(before)]
    at = max(range(width), key=lambda point: abs(residuals[point]) / allowed[point])
    centres = [fmean(row) for row in before]
    return Departure(
        mean=_apart([fmean(row) for row in after], centres),
        mean_allowed=max(FLOOR, mean_bound * stdev(centres)),
        at=at,
        point=residuals[at],
        point_allowed=allowed[at],
    )


def _scale(stored: Trajectory) -> Callable[[float], float]:
    values = [value for row in stored.points for value in row]
    if min(values) > 0:
        return lambda value: log(value) if value > 0 else inf  # zero, below, or no number: as far away as can be
    size = fmean(map(abs, values)) or 1.0
    return lambda value: value / size


def _apart(after: Sequence[float], before: Sequence[float]) -> float:
    """Mean minus mean; infinite where anything is not finite."""
    return fmean(after) - fmean(before) if all(map(isfinite, after)) else inf


def _turned(rows: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*rows, strict=True))
