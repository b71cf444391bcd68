"""A loss broadcasts [N, 1] against [N], or a squeeze drops a batch of one.

## What it detects

`mse_loss`, `l1_loss`, `smooth_l1_loss`, `huber_loss` or a difference, sum, product or quotient whose two operands have
the same size but another rank, so that each is spread along the other: N predictions against N targets become N * N
pairs. And a `squeeze()` without a dimension that takes the batch away where it has one row.

## Why it matters

Nothing raises, the loss falls, and it is minimised by predicting the mean of all targets. The batch of one comes with
the last rows of an epoch, or in evaluation.

## How it decides

1. In the recording of 5 steps that GG101 and the others read: statistic: elementwise operations of a tensor with a
   gradient and one without, whose sizes other than 1 are the same, each of which is spread along the other, at
   different ranks (or inside one of PyTorch's own losses), and behind which come only elementwise operations and
   reductions up to the loss that backward starts from. Allowed: 0. A bias, a mask, a scale, pairwise differences
   written with both dimensions in place, scores on their way into a softmax: no finding.
2. Where the run has `select_rows`: a step on one row of a batch, and one on that row twice, each on a fresh run under
   the recorder. It fails where the first raises and the second does not, and where a `squeeze()` that dropped the
   leading dimension, whose line it names, ran in it.

False-alarm rate: 0 on shapes of different sizes. A loss over all pairs that is meant and written with different ranks
fails; write `[None, :]` and `[:, None]`.

## Example

Bad:

```python
loss = (value_head(feature_ND) - target_N).square().mean()               # [N, 1] - [N]
```

Good:

```python
loss = (value_head(feature_ND).squeeze(-1) - target_N).square().mean()
```

## How to fix

Give both operands one shape before they meet, and name the dimension that `squeeze` takes away.

## Known limits

Two operands that both have a gradient are taken for pairs that are meant. A batch of one that gives a wrong number but
raises nothing is GG407's. A target of one element against N predictions is not seen.

## Sources

pytorch/pytorch#16045 and #4938.
"""

from __future__ import annotations

from dataclasses import replace

from gradgate.checks.raised import SubjectRaisedError, calling, reports_raises
from gradgate.checks.recording import recorded
from gradgate.checks.switches import Again
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Stage, Subject
from gradgate.watch.block import watch

CODE, NAME = "GG415", "shape-broadcast"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording, then step on a single row."""
    outcome = recorded(subject, stage, context).outcome(CODE)
    alone = _alone(stage, context)
    measured = {**outcome.measured, "faults": outcome.measured.get("faults", 0) + len(alone)}
    return replace(outcome, findings=(*outcome.findings, *alone), measured=measured)


def _alone(stage: Stage, context: Context) -> list[Finding]:
    """The finding of a step that a batch of one row breaks; empty where it goes well, or the run cannot cut batches."""
    squeezed, error = _step(stage, context, [0])
    if error is None or not squeezed or _step(stage, context, [0, 0])[1] is not None:
        return []
    message = f"a batch of one row breaks the step: {error}; squeeze() took its dimension away"
    return [replace(squeezed[0], message=message, severity="error")]


def _step(stage: Stage, context: Context, rows: list[int]) -> tuple[list[Finding], SubjectRaisedError | None]:
    """One step of a fresh run on these rows: where squeeze() dropped a leading dimension, and what was raised."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    if "rows" not in declared(run):
        return [], None
    batch = next(iter(run.batches()))
    with calling(f"select_rows(batch, {rows})"):
        batch = run.select_rows(batch, rows)
    block = watch()
    try:
        with block, calling(f"step() on {len(rows)} row(s)"):
            run.step(batch)
    except SubjectRaisedError as raised:
        return [finding for finding in block.findings if finding.op == "squeeze"], raised
    return [], None
