"""A step is slower than the stored baseline of this class of machine.

## What it detects

A coarse slowdown that came in small steps, or with an upgrade: what no single comparison of two commits shows.

## Why it matters

Ten changes of 2.5 % each pass every gate against the commit before and cost 28 % together.

## How it decides

20 to 200 steps of a fresh run of the stage, one thread. Statistic: CPU seconds of the fastest step over those of the
fastest stored one, the stored estimate that wanders least; what is slower is timed up to twice more. Threshold: 1.25,
and no more than a warning: stored timings scatter by tens of percent on a shared machine, so that finer ones are
GG701's, which pairs base and head in one process. Refused, and said so, where CPU model, flags, cores, affinity, quota,
kernel, torch build, instruction set, Python or threads differ.

False-alarm rate: 5 % of the pairs of 60 timings a stage on a shared machine of two cores at a load of 1.5 to 2.5, 8 to
10 % without the repeats; a warning never fails a run.

## Example

Bad:

```python
for position in range(S):
    weight_BSH[:, position] = head_weights(...)
```

Good:

```python
weight_BSH = head_weights(...)
```

## How to fix

Compare with an older commit: `gradgate compare TARGET --stage STAGE --base-ref REF`. Where it is meant, record it:
`gradgate baseline update --reason TEXT`.

## Known limits

The clock speed belongs to no class: a machine that throttles looks slow. CPU time is blind to sleeping and waiting.

## Sources

Measured in the project's notes on gates: stored baselines at 5 % raise 35 to 55 % false alarms on unchanged code.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.stored import entry_for, timed
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG704", "slower-than-baseline"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
SOLO = True
MOST = 1.25  # a finer threshold on stored times is an alarm on every other run
ATTEMPTS = 3  # timings before a warning: what else runs on a shared machine comes in phases of seconds


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Time some steps and hold their fastest against the stored one."""
    found = entry_for(subject, stage, context)
    if isinstance(found, Outcome):
        return found
    if found.entry is None or not found.timed:
        return Outcome(not_applicable=found.refused)
    stored_s, rounds = found.entry.cpu_s, list[float]()
    for _ in range(ATTEMPTS):
        rounds += timed(stage, context.device)
        if min(rounds) <= MOST * stored_s:
            break
    now_s = min(rounds)
    ratio = now_s / stored_s
    measured, allowed = {"cpu_time_ratio": ratio, "step_ms": now_s * 1e3}, {"cpu_time_ratio": MOST}
    if ratio <= MOST:
        return Outcome((), measured, allowed)
    finding = Finding(
        CODE,
        NAME,
        f"a step takes {now_s * 1e3:.3g} ms CPU time, stored {stored_s * 1e3:.3g} ms: {ratio:.2f} times, "
        f"allowed: {MOST} (fastest of {len(rounds)} and {len(found.entry.rounds)} steps)",
        severity="warning",
        fix="gradgate compare with an older commit tells whether it is the code or the machine",
        detail={"stored_commit": found.entry.commit, "recorded": found.entry.recorded},
    )
    return Outcome((finding,), measured, allowed)
