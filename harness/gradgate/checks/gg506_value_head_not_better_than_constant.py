"""The value head does not beat the best constant predictor.

## What it detects

A value head that is dead, that is trained on the wrong targets, with a learning rate of the wrong size or sign, on
features that carry nothing, or whose predictions are detached from what it learnt. A head that has learnt where in a
row it is, and nothing about the row.

## Why it matters

A constant value has a constant delta: the head weights are then those of the positions, not of the tokens, and the
second stage is uniform weighting at a higher price. A falling training loss does not show it: the head first learns
the mean.

## How it decides

One whole fit at the check's seed, and where it fails those of the two seeds behind it, of which one must fail, too: a
held-out set of few rows of one kind has a constant that is hard to beat. Statistic: mean squared error of the held-out
predictions over that of the best constant, which is the mean of these very targets and therefore better than any that
could be known beforehand. It fails at 0.98 or more: 2 % better is the margin. Fewer than 50 predictions, or constant
targets, are inconclusive.

Null control, shuffled labels: where the fit says its positions, the same predictions are held against targets that are
shuffled among the rows, each staying at its position. Statistic: mean squared error over that against shuffled targets,
averaged over all shuffles in closed form. It fails at 0.98 or more: then the head beats the constant, and as well for
labels that have nothing to do with its rows. A head that knows positions alone has exactly 1.

A fit that says which held-out rows are right (`right_R`) must have right ones and wrong ones: where all rewards are the
same, a head that knows positions alone beats the constant, and there was nothing to learn.

Beside it, and without a bound: the error of the position-only predictor (the mean target at the same position,
leave-one-out), and the AUC of `score_R` against `right_R` with its standard error (Hanley and McNeil).

False-alarm rate: a head that predicts the training mean has a ratio of 1 or more by construction. A sound head of the
bundled trainer was within the margin at one of 20 seeds, and so at two of three in less than 1 % of runs. How often it
is at each seed is stage1-converges' question (GG901).

## Example

Bad:

```python
value_BS = value_head(feature_BSD.detach()).detach()      # the loss trains nothing
```

Good:

```python
value_BS = value_head(feature_BSD.detach())
```

## How to fix

Look at the head's gradients (GG201), then at its targets against rewards, then at the learning rate. A position-only
error near the head's own says that the head has learnt where a row ends, and no more.

## Known limits

The bars are low on purpose; read `position_mse` and `auc` beside them. Without positions the shuffled labels are left
out, and a head that knows positions alone passes.

## Sources

Issue "The trainer and the house", the row on Stage 1; Mann and Whitney 1947, Annals of Mathematical Statistics 18:50.
"""

from __future__ import annotations

from math import isfinite, isnan

from gradgate.checks.fits import fit
from gradgate.checks.prediction import Quality, quality
from gradgate.checks.raised import reports_raises
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG506", "value-head-not-better-than-constant"
NEEDS: tuple[str, ...] = ("fit",)
PER_STAGE = True
GROUP = "fits"  # whole fits, made once in a process
OBJECTIVE = "value"
ALLOWED = 0.98  # ratio of squared errors; also the bar of GG901
ENOUGH = 50  # predictions
SEEDS = 3  # of which most must fail


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Fit and compare with the constant; where it is no better, fit twice more."""
    run = fit(subject, stage, context.seed, context)
    found = quality(run)
    if found is None:
        return Outcome(not_applicable="fit() gives no `prediction_N` and `target_N`")
    allowed = {"mse_to_constant_ratio": ALLOWED}
    if run.right_R is not None and len(set(run.right_R.tolist())) == 1:
        return Outcome((_one_kind(len(run.right_R), found),), found.measured(), allowed)
    if not isfinite(found.mse):
        return Outcome((_finding(found),), found.measured(), allowed)
    if found.values < ENOUGH or not isfinite(found.ratio):
        reason = (
            f"{found.values} held-out predictions (needed: {ENOUGH}), the constant's error is {found.constant_mse:.3g}"
        )
        return Outcome((), found.measured(), allowed, inconclusive=reason)
    told = _judged(found)
    if isfinite(found.shuffled_ratio) and found.ratio < ALLOWED:
        allowed |= {"mse_to_shuffled_ratio": ALLOWED}
    if told is None:
        return Outcome((), found.measured(), allowed)
    others = [quality(fit(subject, stage, context.seed + more, context)) for more in range(1, SEEDS)]
    failing = 1 + sum(other is None or not isfinite(other.mse) or _judged(other) is not None for other in others)
    measured = {**found.measured(), "seeds_that_fail": failing, "seeds": SEEDS}
    return Outcome((told,) if 2 * failing > SEEDS else (), measured, allowed)


def _judged(found: Quality) -> Finding | None:
    """What is wrong with one fit."""
    if found.ratio >= ALLOWED:
        return _finding(found)
    return _shuffled(found) if isfinite(found.shuffled_ratio) and found.shuffled_ratio >= ALLOWED else None


def _shuffled(found: Quality) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"held-out squared error {found.mse:.4g} is {found.shuffled_ratio:.3f} of what it is against labels "
        f"shuffled among the rows at each position; allowed: below {ALLOWED} ({found.values} values): the head knows "
        f"where in a row it is, and nothing about the row",
        fix="look at what the head is given of the row: features that are the same in all rows, a mask, rows mixed up",
        detail=found.measured(),
    )


def _one_kind(rows: int, found: Quality) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"all {rows} held-out rows are of one kind, right or wrong: nothing tells them apart; allowed: both",
        fix="look at what gives the rewards: a test that always passes, a missing field, rows that are mixed up",
        detail=found.measured(),
    )


def _finding(found: Quality) -> Finding:
    area = "" if isnan(found.auc) else f"; AUC {found.auc:.2f}"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"held-out squared error {found.mse:.4g} is {found.ratio:.3f} of the best constant's "
        f"{found.constant_mse:.4g}; allowed: below {ALLOWED} ({found.values} values; by position alone "
        f"{found.position_mse:.4g}{area})",
        fix="look at the value head's gradients (GG201), its targets, its learning rate, and whether its features vary",
        detail=found.measured(),
    )
