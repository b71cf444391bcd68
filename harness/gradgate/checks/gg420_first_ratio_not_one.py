"""A policy's ratio is not 1 before its first update: the two log-probabilities in it were not taken the same way.

## What it detects

`exp(new - old)` where `old` was taken without a gradient (a rollout) and `new` with one, by the same parameters before
any update, and the two differ: dropout in one of them, a temperature in one of them, a mask or padding in one of them,
tokens one position off, a sum over other positions.

## Why it matters

Importance ratios, and the clipping that is built on them, assume that the first ratio is 1 and that what moves it is
the update. Where it starts elsewhere, part of the batch is clipped from the beginning and the rest is weighed by noise.

## How it decides

A first batch is drawn and stepped on, in float64, while every operation is followed: which parameters a tensor comes
from, whether a logarithm or a log-softmax is on the way, and how often each parameter had been written. Wherever the
exponential of a difference is taken whose first part has a gradient and whose second has none, both are
log-probabilities, the second comes from all trained parameters of the first, and none of these was written in between,
they must agree. Statistic: the largest |new - old|; allowed: 1e-6, for which float64 has room however it is computed.
Options of the stage whose name has `temperature` or `dropout` in it are moved, one at a time, and looked at as well.
Where dropout of rate 0 is in train mode for one of them and in eval mode for the other, and the trainer's source has a
setting of that name, that is a finding too: at any other rate they differ.

Not applicable where no such difference is taken: the reference of a divergence has other parameters, and
log-probabilities that come with the data have none.

False-alarm rate: 0 where the ratio is meant to begin at 1. Values and advantages are not looked at.

## Example

Bad:

```python
policy.eval()
with torch.no_grad():
    old_BS = log_probs(policy, tokens)
policy.train()
ratio_BS = torch.exp(log_probs(policy, tokens) - old_BS)     # dropout in one of the two
```

Good:

```python
with torch.no_grad():
    old_BS = log_probs(policy, tokens)
ratio_BS = torch.exp(log_probs(policy, tokens) - old_BS)     # the same mode, mask and temperature
```

## How to fix

Take both by one function, in eval mode or without dropout, with one temperature and one mask.

## Known limits

Only the first batch is looked at, and a rollout that the adapter makes beforehand and copies is not followed. Where
a model has no module of dropout, that of its attention cannot be seen at rate 0.

## Sources

Schulman et al. 2017, arXiv:1707.06347, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from gradgate.checks.lineage import Lineage, Ratio
from gradgate.checks.moved import as_given, in_words, moves
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.source.trainer import files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG420", "first-ratio-not-one"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
ALLOWED = 1e-6
MOVED = ("temperature", "dropout")
SETTING = re.compile(r"\b\w*dropout\w*\s*[:=][^=]|[\"']\w*dropout\w*[\"']")
NOT_SEEN = "no step takes the exponential of a difference of log-probabilities that the same parameters gave twice"


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Follow one batch and its step, as configured and with each option moved that concerns the ratio."""
    findings: list[Finding] = []
    worst, seen = 0.0, 0
    for options in moves(stage, MOVED):
        for ratio in _ratios(subject, stage, context, options):
            seen += 1
            apart = float((ratio.new - ratio.old).abs().nan_to_num(nan=torch.inf).max())
            worst = max(worst, apart)
            if apart > ALLOWED and not findings:
                findings.append(_finding(ratio, apart, options))
            elif ratio.trains[0] != ratio.trains[1] and not findings and _has_setting(subject):
                findings.append(_would_differ(ratio))
    if not seen:
        return Outcome(not_applicable=NOT_SEEN)
    return Outcome(tuple(findings), {"log_ratio": worst, "ratios": seen}, {"log_ratio": ALLOWED})


def _ratios(subject: Subject, stage: Stage, context: Context, options: Mapping[str, Any]) -> list[Ratio]:
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device, **as_given(options))
    with Lineage(subject.source) as lineage:
        with calling("drawing a batch"):
            batch = next(iter(run.batches()))
        with calling("step()"):
            run.step(batch)
    return lineage.ratios


def _has_setting(subject: Subject) -> bool:
    """Whether the trainer's source has a setting of dropout, so that a rate of 0 is one of its values."""
    return any(SETTING.search(line) for file in files_of(subject) for line in file.lines)


def _would_differ(ratio: Ratio) -> Finding:
    which = ("new", "old") if ratio.trains[0] else ("old", "new")
    return Finding(
        code=CODE,
        name=NAME,
        message=f"the {which[0]} log-probabilities of a ratio are taken in train mode, the {which[1]} ones in eval "
        "mode: with any dropout but the 0 of this run they differ before any update; allowed: one mode",
        culprit=ratio.place,
        fix="take both in one mode",
        detail={"trains": list(ratio.trains)},
    )


def _finding(ratio: Ratio, apart: float, options: Mapping[str, Any]) -> Finding:
    why = ""
    if ratio.dropped[0] != ratio.dropped[1]:
        why = f"; dropout was on in the {'new' if ratio.dropped[0] else 'old'} one alone"
    elif all(ratio.dropped):
        why = "; dropout was on in both, and dropped other elements"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"before any update the log-probabilities of a ratio differ by {apart:.3g}{in_words(options)}, though "
        f"the same parameters gave both{why}; allowed: {ALLOWED:g}",
        culprit=ratio.place,
        fix="take both by one function: the same mode, temperature, mask and positions",
        detail={"apart": apart, "dropped": list(ratio.dropped)},
    )
