"""The unweighted held-out cross-entropy has no significant downward trend, or spikes.

## What it detects

A token stage whose weighted training loss falls while its predictions do not get better, a learning rate of the wrong
size or sign, a stage that trains nothing, training that blows up on the way.

## Why it matters

The weighted loss can fall by its weights alone (GG505). Held-out and unweighted, only better predictions lower it.

## How it decides

For a seed, the curve is `Fit.curve`: before training and after each evaluation. A seed succeeds where all of these
hold:

* trend: the exact one-sided Mann-Kendall test against "every order of the values is equally likely" gives p <= 0.05.
  Fewer than 4 values cannot reach that (1 / 3! = 0.17): inconclusive;
* net fall: the last value is at least 1 % below the first;
* plateau: the second half of the curve brings at most 40 % of the total fall. A straight line brings 50: that stage has
  hardly begun, as with a learning rate a hundred times too small;
* frequencies: where the fit gives `constant_loss`, that of the labels' own frequencies, the last value is below 0.98 of
  it, the bar that GG506 has for values;
* spikes: no rise over the running minimum is above 25 % of the total fall (first minus minimum);
* rate: where the stage has `losses` and its `optimizers`, a fresh run takes 64 steps, and another the same 64 at a
  tenth of the learning rate. The mean loss on the 16 batches behind may not end more than 5 % lower at the tenth. In so
  few steps a tenth of a sound rate has hardly begun: measured, it ends 46 to 53 % higher on a small trainer (8 seeds),
  61 to 63 % on the bundled one (3 seeds); at ten times the small one's sound rate the tenth ends 13 to 19 % lower.

A value that is not finite fails the seed. Seeds `seed, seed + 1, ...` are tried in Wald's sequential test of the
success probability, as in GG901: in quick 2 successes or 2 failures of at most 5 seeds, in pr 4 successes or 2
failures of at most 9, in nightly 10 successes or 2 failures of at most 17; error 0.05 on either side. A curve of
exchangeable noise passes a seed with at most 0.05.

## Example

Bad:

```python
loss = (weight_BSH.detach() * cross_entropy_BSH.detach()).sum()      # nothing but the value head learns
```

Good:

```python
loss = (weight_BSH.detach() * cross_entropy_BSH).sum()
```

## How to fix

Look at gradients (GG201, GG205) and the learning rate; for spikes at clipping, warm-up and the data of that step.

## Known limits

Consecutive evaluations of one run are not independent: a random walk can show a trend, which is why the net fall is
asked for too. A stage that falls and then overfits by more than a quarter of its fall is reported as a spike. A rate
that a warm-up of more than 64 steps still holds down is not tried, nor one whose updates do not go through
`torch.optim`.

## Sources

Mann 1945, Econometrica 13:245; Kendall 1938, Biometrika 30:81; Wald 1945, Annals of Mathematical Statistics 16:117.
"""

from __future__ import annotations

from itertools import count
from math import isfinite

from gradgate.checks.fits import fit
from gradgate.checks.raised import reports_raises
from gradgate.checks.rate_trial import tenth_gain
from gradgate.checks.sequential import BY_PROFILE
from gradgate.checks.trend import highest_spike, late_fall, mann_kendall, net_fall, smallest_p
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG902", "stage2-decreases"
NEEDS: tuple[str, ...] = ("fit",)
PER_STAGE = True
GROUP = "fits"  # whole fits, made once in a process
OBJECTIVE = "tokens"
ALPHA = 0.05
NET_FALL = 0.01  # of the first value
SPIKE = 0.25  # of the total fall
CONSTANT = 0.98  # of the loss of the labels' frequencies, at most
LATE = 0.4  # of the total fall, in the second half
GAIN = 0.05  # of the loss, that a tenth of the rate may end lower
ALLOWED = {
    "trend_p": ALPHA,
    "net_fall_ratio": NET_FALL,
    "spike_ratio": SPIKE,
    "late_fall_ratio": LATE,
    "tenth_of_rate_gain_ratio": GAIN,
}


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Fit seed after seed until the case is clear."""
    length = len(fit(subject, stage, context.seed, context).curve)
    if length == 0 or smallest_p(length) > ALPHA:
        return Outcome(inconclusive=f"{length} held-out values a fit; a trend at p <= {ALPHA} needs 4", allowed=ALLOWED)
    faults: dict[int, str] = {}
    measured: dict[str, dict[int, float]] = {name: {} for name in ALLOWED}
    curves: dict[str, list[tuple[float, float]]] = {}

    def succeeds(seed: int) -> bool:
        result = fit(subject, stage, seed, context)
        curves[f"seed {seed}"] = [(float(at), value) for at, value in enumerate(result.curve, 1)]
        numbers, fault = judge(result.curve, result.constant_loss)
        gain = None if fault else tenth_gain(stage, seed, context.device)
        if gain is not None:
            numbers["tenth_of_rate_gain_ratio"] = gain
            if gain > GAIN:
                fault = f"a tenth of the learning rate ends {gain:.0%} lower (allowed {GAIN:.0%})"
        for name, value in numbers.items():
            measured[name][seed] = value
        if fault:
            faults[seed] = fault
        return not fault

    decision, tried = BY_PROFILE[context.profile].run(count(context.seed), succeeds)
    told = f"{len(faults)} of {len(tried)} seeds: " + "; ".join(f"seed {seed}: {text}" for seed, text in faults.items())
    findings = (_finding(told),) if decision == "bad" else ()
    reason = f"undecided after {told}" if decision == "undecided" else ""
    return Outcome(findings, measured, ALLOWED, inconclusive=reason, series={"heldout_loss_nats": curves})


def judge(curve: tuple[float, ...], constant: float | None = None) -> tuple[dict[str, float], str]:
    """The numbers of a curve, and what is wrong with it; empty where nothing is."""
    if not all(isfinite(value) for value in curve):
        return {}, f"held-out loss is not finite at evaluation {[isfinite(v) for v in curve].index(False)}"
    p_down, fall, spike, late = mann_kendall(curve).p_down, net_fall(curve), highest_spike(curve), late_fall(curve)
    span = f"{curve[0]:.3f} to {curve[-1]:.3f} nats"
    faults = []
    if p_down > ALPHA:
        faults.append(f"no downward trend, {span} (p {p_down:.2g}, allowed {ALPHA})")
    if fall < NET_FALL:
        faults.append(f"net fall {fall:.2%}, {span} (at least {NET_FALL:.0%})")
    if late > LATE:
        faults.append(f"{late:.0%} of the fall in the second half, no plateau in sight (allowed {LATE:.0%})")
    if constant is not None and curve[-1] >= CONSTANT * constant:
        faults.append(f"no better than the labels' frequencies, {constant:.3f} nats (below {CONSTANT} of them)")
    if spike > SPIKE:
        faults.append(f"spike of {spike:.0%} of the total fall (allowed {SPIKE:.0%})")
    return {"trend_p": p_down, "net_fall_ratio": fall, "spike_ratio": spike, "late_fall_ratio": late}, ", ".join(faults)


def _finding(told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"held-out cross-entropy does not fall as it should on {told}",
        fix="look at gradients (GG201, GG205) and learning rate; for spikes at clipping, warm-up and that step's data",
    )
