"""Loss or gradient norm of whole fits leaves the stored trajectory.

## What it detects

Training that still converges, and worse than it did: a learning rate ten times too large, a schedule that lost its
warm-up, a loss term that counts twice, gradients that are larger or smaller than they were, a drift of a few percent.

## Why it matters

Bars and trends are wide on purpose: a fit may lose a tenth of what it reached and still clear them all.

## How it decides

`gradgate baseline update` stores, for each stage with `fit`, the held-out loss at every evaluation and the numbers of
every step (`Fit.steps`: loss, gradient norm) of 8 seeds, each cut into at most 12 parts of equal length, by their
means. Fits of fresh seeds `seed, seed + 1, ...` (those that GG901 and GG902 make anyway) are cut alike. In logarithms
(a share of the mean size, where a stored value is not above 0), with m stored seeds and n fresh ones:

* *point by point:* the fresh mean less the stored mean, at each of the P points;
* *on the mean residual:* the same of the means over all points, so that a drift that every point tolerates shows.

The stored seeds' own spread s, of that point or of that mean, gives the tolerance. Where fresh seeds are of the stored
kind, fresh mean less stored mean has the variance s^2 (1/n + 1/m), so that it stays within

    t(m - 1) * s * sqrt(1/n + 1/m),

where t is Student's two-sided bound. The error 0.001 of a stage is shared out evenly: over its K trajectories, half to
the mean residual and half to the points (0.0005 / K, and 0.0005 / (K P) each: Bonferroni). Never below 0.1 %: float32
sums in another order move whole runs by 1.1e-4. What is not finite, or not above 0 where all that is stored is, is
infinitely far.

Sequential: what is within its tolerances after 2 (quick), 3 (pr) or 5 (nightly) seeds passes; else seeds are added up
to 3, 5 or 10, and only what is outside then fails.

False-alarm rate: at most 0.001 a stage for fresh seeds, 0 for unchanged code at seed 0, whose fits are among the stored
ones. Measured on 400 draws of 8 stored and 2, then 5, fresh seeds of a small two-stage trainer, at an error of 0.01:
0.0075 and 0.01.

Not applicable where no trajectory is stored, or one of another torch build, instruction set or number of threads.
Inconclusive where fewer than 5 seeds are stored, where a trajectory is no longer reported, or where fits have become
longer or shorter: then nothing can be held against one another, and it wants a new record.

## Example

Bad:

```python
optimizer = AdamW(parameters, lr=1e-1)                      # learns, and ends 12 % above where it did
```

Good:

```python
optimizer = AdamW(parameters, lr=1e-2)
```

## How to fix

`gradgate compare` and `git bisect` on the commits since the stored one. Where the change is meant, record it:
`gradgate baseline update --reason TEXT`.

## Known limits

What differs less than seeds do is not seen. A departure to the better is reported as well: it wants a record, too.
A tolerance from so few seeds knows their spread within a factor of two; the t-bound pays for that with its width.

## Sources

Student 1908, Biometrika 6:1; the prediction interval of a mean: Hahn and Meeker 1991, Statistical Intervals, section
4.8; Dunn 1961, J. Am. Stat. Assoc. 56:52 (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import expm1, inf, isfinite
from statistics import fmean

from gradgate.checks.fits import fit
from gradgate.checks.raised import reports_raises
from gradgate.checks.stored import RERECORD, entry_for
from gradgate.checks.trajectories import series_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.gates.baselines import UPDATE
from gradgate.gates.trajectories import Departure, Trajectory, departure, in_parts
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG903", "trajectory"
NEEDS: tuple[str, ...] = ("fit",)
PER_STAGE = True
GROUP = "fits"  # whole fits, made once in a process
ALPHA = 0.001
ENOUGH = 5  # stored seeds: a spread of fewer is known within a factor of four
LOOKS = {"quick": (2, 3), "pr": (3, 5), "nightly": (5, 10)}  # fresh seeds
Fresh = Mapping[str, Sequence[Sequence[float]]]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold fresh fits against the stored ones; more of them where some are outside."""
    found = entry_for(subject, stage, context)
    if isinstance(found, Outcome):
        return found
    assert found.entry is not None  # noqa: S101 - else it is an Outcome
    stored = found.entry.trajectories
    if not stored:
        return Outcome(not_applicable=f"the stored baseline has no trajectory of {stage.name}; record one: {UPDATE}")
    few = min(len(one.points) for one in stored.values())
    if few < ENOUGH:
        return Outcome(inconclusive=f"{few} seeds are stored, their spread wants {ENOUGH}; record them: {UPDATE}")
    for count in LOOKS[context.profile]:
        fits = [series_of(fit(subject, stage, context.seed + i, context)) for i in range(count)]
        unlike = next(filter(None, (_unlike(stored, one) for one in fits)), "")
        if unlike:
            return Outcome(inconclusive=f"{unlike}; {RERECORD}")
        fresh = {name: [one[name] for one in fits] for name in stored}
        apart = {name: departure(one, fresh[name], ALPHA / len(stored)) for name, one in stored.items()}
        if not any(one.departed for one in apart.values()):
            break
    return _outcome(stored, fresh, apart, found.entry.commit)


def _unlike(stored: Mapping[str, Trajectory], one: Mapping[str, Sequence[float]]) -> str:
    """Why a fit cannot be held against what is stored; empty where it can."""
    for name, trajectory in stored.items():
        if name not in one:
            return f"`{name}` is stored and no longer reported"
        if not trajectory.fits(len(one[name])):
            return f"a fit has {len(one[name])} values of `{name}`, stored: {max(trajectory.lengths)}"
    return ""


def _outcome(stored: Mapping[str, Trajectory], fresh: Fresh, apart: Mapping[str, Departure], commit: str) -> Outcome:
    measured = {f"{name}_{what}": value for name, one in apart.items() for what, value in _numbers(one).items()}
    allowed = {
        f"{name}_{what}": value
        for name, one in apart.items()
        for what, value in (("mean_residual", one.mean_allowed), ("largest_residual", one.point_allowed))
    }
    findings = [
        _finding(name, one, stored[name], len(fresh[name]), commit) for name, one in apart.items() if one.departed
    ]
    series = {
        name: {"stored": _curve(one.points), "now": _curve([in_parts(row, len(one.points[0])) for row in fresh[name]])}
        for name, one in stored.items()
    }
    return Outcome(tuple(findings), measured, allowed, series=series)


def _numbers(one: Departure) -> dict[str, float]:
    return {"mean_residual": one.mean, "largest_residual": one.point, "largest_residual_at": one.at + 1}


def _curve(rows: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Means over the seeds; a point that is not finite is left out."""
    means = [fmean(column) for column in zip(*rows, strict=True)]
    return [(float(at), value) for at, value in enumerate(means, 1) if isfinite(value)]


def _finding(name: str, one: Departure, stored: Trajectory, seeds: int, commit: str) -> Finding:
    told = []
    if one.drifted:
        told.append(f"{_relative(one.mean)} on average (allowed {expm1(one.mean_allowed):.2%})")
    if one.left:
        points = len(stored.points[0])
        told.append(
            f"{_relative(one.point)} at point {one.at + 1} of {points} (allowed {expm1(one.point_allowed):.2%})"
        )
    return Finding(
        CODE,
        NAME,
        f"`{name}` leaves the stored trajectory: {', and '.join(told)}; {seeds} seeds against {len(stored.points)}",
        fix=f"gradgate compare with {commit[:12]}, where it was stored; {RERECORD}",
        detail={"stored_commit": commit, **_numbers(one)},
    )


def _relative(residual: float) -> str:
    if residual == inf:
        return "infinitely far"
    return f"{abs(expm1(residual)):.2%} {'above' if residual > 0 else 'below'}"
