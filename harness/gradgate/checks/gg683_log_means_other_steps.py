"""A number of the log is a mean over other steps than those since the last line.

## What it detects

Sums that are not put back behind a line, so that each is the mean since the start; a mean over one step more or fewer,
or over the interval's length where fewer steps were made; a number of the last micro-batch alone.

## Why it matters

A curve that averages over all of training falls smoothly and late: a spike, a divergence and the end of progress are
not seen in it.

## How it decides

What backward starts from is noted at every step: that is a step's loss. A number of the log whose first record is the
loss of that step, or the mean or the sum of the losses up to it, must be that in every record: of the step, or of the
steps since the last record, to 1e-4. Other numbers are held against those of a launch with the interval of the log (a
key of `Program.watching` whose name has `log`) at 1, which gives each step's. A finding says where a number is the mean
since the start of the stage, over one step more or fewer, or none of these. Numbers are compared of which three records
have one.

False-alarm rate: 0 for logs of the last value or of means since the last line. A number that is an average by its name
(`ema`, `avg`, `smooth`, `running`) is left alone.

## Example

Bad:

```python
total += loss; count += 1
if step % cfg.log_every == 0:
    log(loss=total / count)                  # and both go on
```

Good:

```python
    log(loss=total / count)
    total, count = 0.0, 0
```

## How to fix

Put sum and count back to 0 where a line is written.

## Known limits

A log without the number of its step is not compared. An exponential average under a plain name is a finding: name it.

## Sources

Faults of trainers of the catalogue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from statistics import fmean

from gradgate.checks.launches import first_parting
from gradgate.checks.left_behind import Series, numbers_in
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Whole, equal_runs, program_of, starts, unstable, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG683", "log-means-other-steps"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
LOG = re.compile(r"(^|[._])log|print|report")
AVERAGE = re.compile(r"ema|avg|average|smooth|running|best|patience|epoch")
ALLOWED, RECORDS = 1e-4, 3

Numbers = Mapping[int, float]  # by step


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Compute what the log ought to say of each step."""
    program = program_of(subject)
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    run, without = runs[0], unstable(*runs, program)
    keys = [key for key in program.watching if LOG.search(key.lower())]
    every = whole(subject, context, dict.fromkeys(keys, 1)) if keys else run
    if every.launched.end != "ended" or first_parting(run.updates, every.updates) is not None:
        every = run
    lines, steps = dict(_numbers(run, without)), dict(_numbers(every, without))
    findings, compared = [], 0
    for name, said in lines.items():
        if len(said) < RECORDS or _has_all(said):
            continue
        single = _losses(said, run) or steps.get(name, {})
        if len(single) <= len(said) or any(step not in single for step in said):
            continue
        compared += 1
        told = _told(said, single)
        if told:
            findings.append(_finding(name, told))
    if not compared and any(map(_has_all, lines.values())):
        return Outcome(not_applicable="the log has a record of each step, and no means of several")
    if not compared:
        return Outcome(inconclusive="no number of the log is a loss that backward starts from, or there for each step")
    return Outcome(tuple(findings), {"numbers": compared})


def _has_all(said: Numbers) -> bool:
    """Whether a number is there for each step between its first and its last."""
    return len(said) > 1 and max(said) - min(said) == len(said) - 1


def _losses(said: Numbers, run: Whole) -> Numbers:
    """The loss of each step of the stage in which a log's first record is one, or a mean or sum; empty: it is none."""
    begins = starts(run.updates)
    first = min(said)
    for start, end in zip(begins, [*begins[1:], len(run.updates)], strict=True):
        for together in (sum, fmean):
            for offset in (start, 0, start + 1, start - 1):
                losses = {i + 1 - offset: together(run.updates[i].losses or (math.nan,)) for i in range(start, end)}
                if any(step not in losses for step in said):
                    continue
                since = [loss for step, loss in losses.items() if step <= first]
                if _is_one(said[first], (losses[first], fmean(since), sum(since))):
                    return losses
    return {}


def _numbers(run: Whole, without: frozenset[str]) -> Iterator[tuple[Series, Numbers]]:
    """Each number of the log by its step, in each stage that the log tells apart."""
    for series, values in numbers_in(run.records).items():
        by_step = {step: value for step, value in values if step is not None and math.isfinite(value)}
        if by_step and series[0] not in without and not AVERAGE.search(series[0].lower()):
            yield series, by_step


def _told(said: Numbers, single: Numbers) -> str:
    """What a log's numbers are, where they are not of the steps since its last line; else empty."""
    order = sorted(said)
    wrong: list[tuple[int, str]] = []
    for before, step in zip([None, *order[:-1]], order, strict=True):
        since = [value for at, value in sorted(single.items()) if (before is None or at > before) and at <= step]
        if _is_one(said[step], (single[step], fmean(since), sum(since), min(since), max(since))):
            continue
        start = [value for at, value in sorted(single.items()) if at <= step]
        shorter = since[1:] or since
        longer = start[-len(since) - 1 :]
        if _is_one(said[step], (fmean(start),)):
            wrong.append((step, f"the mean of all {len(start)} steps so far"))
        elif _is_one(said[step], (fmean(shorter), fmean(longer))):
            wrong.append((step, "a mean over one step more or fewer"))
        elif _is_one(said[step], tuple(sum(since) / count for count in range(1, 2 * len(since) + 1))):
            wrong.append((step, f"the sum of the {len(since)} steps since the last line, by another number"))
        else:
            wrong.append((step, f"none of the mean {fmean(since):.6g}, the last {single[step]:.6g} and the sum"))
    if len(wrong) < max(1, len(order) - 1):  # the first line may be right by chance, and one alone be special
        return ""
    step, what = wrong[-1]
    return f"at step {step} is {said[step]:.6g}, {what}"


def _is_one(value: float, candidates: Sequence[float]) -> bool:
    """Whether a number of a log is one of these, as far as its decimals tell."""
    rounded = 0.5 * 10.0 ** -_decimals(value)
    return any(abs(value - each) <= max(rounded, ALLOWED * max(abs(value), abs(each), 1e-12)) for each in candidates)


def _decimals(value: float) -> int:
    """The decimals that a number is written with."""
    return max(0, -int(Decimal(repr(value)).as_tuple().exponent))


def _finding(name: Series, told: str) -> Finding:
    fix = "put sum and count back to 0 where a line is written"
    return Finding(
        CODE, NAME, f"`{name[0]}` of {name[1]} {told}", severity="warning" if "none of" in told else "error", fix=fix
    )
