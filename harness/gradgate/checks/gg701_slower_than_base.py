"""Head is slower than base by more than the budget, with the stated confidence.

## What it detects

A slowdown of a stage's step against another commit: more work in a kernel, another memory layout, a loop; and, by the
wall clock, sleeping, waiting for a lock, slow loading of data.

## Why it matters

Nothing else turns red when training becomes slower, and a stored timing cannot tell 5 % from the noise of a shared
machine.

## How it decides

`gradgate verify --base-ref REF` checks that revision out and loads both sides into one process, under import roots and
module tables of their own. Both are stepped in turns, in mirrored passes of four copies. Statistic: the all-pairs
median of the blocks' ratios, head over base, with its exact signed-rank interval; looks after 6, 9, 12 and 16 blocks,
5 % of error spent over them on each side. Threshold: 3 % of CPU time (device time on CUDA), 10 % of wall time. A fail
must repeat in a fresh process. An A/A pair rides on the same samples; where identical code differs by more than half of
the threshold the result is inconclusive, and so it is where the interval stays too wide.

False-alarm rate: the A/A log's observed rate stands in the report of every `gradgate compare`; what was measured on
purpose, with the number of trials, stands in `docs/decisions/0010-paired-gate.md`.

## Example

Bad:

```python
self.weight = nn.Parameter(weight.T)      # the same FLOPs, read column by column: 5.5 % slower
```

Good:

```python
self.weight = nn.Parameter(weight.T.contiguous())
```

## How to fix

`gradgate compare TARGET --stage STAGE --base-ref REF` gives the counters with the first operation that differs. A
slowdown that is meant is accepted with its reason under `[tool.gradgate.accept]`.

## Known limits

Without `--base-ref` the check does not apply. Steps below 1 ms are mostly the interpreter. Where both sides register
one operator with torch, each runs in processes of its own, and only 5 % are found.

## Sources

Fault family PF of the fault catalogue; Hollander, Wolfe and Chicken 2014, section 3.3.
"""

from __future__ import annotations

from gradgate.checks.based import outcome_of
from gradgate.checks.raised import reports_raises
from gradgate.core.comparison import TIMED
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG701", "slower-than-base"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
SOLO = True  # a base is compared with once, for all that ask, and takes time


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Compare the stage's step with base's."""
    if context.compare is None:
        return Outcome(not_applicable="there is no base to compare with: gradgate verify --base-ref REF")
    return outcome_of(context.compare(stage.name), TIMED, (CODE, NAME))
