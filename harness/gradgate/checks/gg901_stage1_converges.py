"""The value stage does not reach its bar within 3 epochs, over seeds.

## What it detects

A value stage that learns on some seeds only, or needs more passes over its data than its recipe has.

## Why it matters

A single lucky seed says nothing. The second stage loads whatever came out of the first.

## How it decides

A seed succeeds where its fit used at most 3 epochs (where the fit counts them) and its held-out squared error is below
0.98 of the best constant predictor's: the bar of GG506. Statistic: successes and failures over the seeds `seed`,
`seed + 1`, ..., in Wald's sequential test of the success probability p, error 0.05 on either side:

| profile | good | bad | passes after | fails after | at most |
|---|---|---|---|---|---|
| quick | p >= 0.95 | p <= 0.2 | 2 successes | 2 failures | 5 seeds |
| pr | p >= 0.95 | p <= 0.45 | 4 successes | 2 failures | 9 seeds |
| nightly | p >= 0.95 | p <= 0.7 | 10 successes | 2 failures | 17 seeds |

A single odd seed wants more: with one failure a case is good after 4, 8 and 16 successes. One that is open after the
last seed is inconclusive. A good stage is called bad with probability at most 0.053.

## Example

Bad:

```python
optimizer = AdamW(value_head.parameters(), lr=1e-7)
```

Good:

```python
optimizer = AdamW(value_head.parameters(), lr=3e-3)
```

## How to fix

Compare a failing seed with a good one: targets, gradients, learning rate. If all fail see GG506.

## Known limits

One corpus; the bar says nothing of how far beyond it a fit could come.

## Sources

Wald 1945, Annals of Mathematical Statistics 16:117.
"""

from __future__ import annotations

from itertools import count

from gradgate.checks.fits import fit
from gradgate.checks.gg506_value_head_not_better_than_constant import ALLOWED
from gradgate.checks.prediction import quality
from gradgate.checks.raised import reports_raises
from gradgate.checks.sequential import BY_PROFILE
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG901", "stage1-converges"
NEEDS: tuple[str, ...] = ("fit",)
PER_STAGE = True
GROUP = "fits"  # whole fits, made once in a process
OBJECTIVE = "value"
EPOCHS = 3


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Fit seed after seed until the case is clear."""
    if quality(fit(subject, stage, context.seed, context)) is None:
        return Outcome(not_applicable="fit() gives no `prediction_N` and `target_N`")
    ratios: dict[int, float] = {}
    epochs: dict[int, int | None] = {}
    curves: dict[str, list[tuple[float, float]]] = {}

    def succeeds(seed: int) -> bool:
        result = fit(subject, stage, seed, context)
        found = quality(result)
        curves[f"seed {seed}"] = [(float(at), value) for at, value in enumerate(result.curve, 1)]
        ratios[seed] = found.ratio if found else float("nan")
        epochs[seed] = result.epochs
        return ratios[seed] < ALLOWED and (result.epochs is None or result.epochs <= EPOCHS)

    test = BY_PROFILE[context.profile]
    decision, tried = test.run(count(context.seed), succeeds)
    measured = {
        "seeds": len(tried),
        "seeds_that_fail": len(tried) - sum(tried.values()),
        "mse_to_constant_ratio": ratios,
        "epochs": epochs,
    }
    allowed = {"mse_to_constant_ratio": ALLOWED, "epochs": EPOCHS}
    told = _told(tried, ratios, epochs)
    findings = (_finding(told),) if decision == "bad" else ()
    reason = f"undecided after {len(tried)} seeds: {told}" if decision == "undecided" else ""
    return Outcome(findings, measured, allowed, inconclusive=reason, series={"heldout_squared_error": curves})


def _told(tried: dict[int, bool], ratios: dict[int, float], epochs: dict[int, int | None]) -> str:
    bad = [seed for seed, good in tried.items() if not good]
    after = {seed: f" after {number} epochs" if number else "" for seed, number in epochs.items()}
    each = "; ".join(f"seed {seed}: {ratios[seed]:.3f}{after[seed]}" for seed in bad)
    return f"{len(bad)} of {len(tried)} seeds miss the bar ({each})"


def _finding(told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{told}; allowed: squared error below {ALLOWED} of the best constant's within {EPOCHS} epochs",
        fix="compare a failing seed with a good one; if all fail, see value-head-not-better-than-constant (GG506)",
    )
