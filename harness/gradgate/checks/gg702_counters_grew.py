"""A counter of work per step is above its stored count.

## What it detects

One more operation, a second forward of the trunk or the value head, a loop over positions, a `.item()` or `.tolist()`
that waits for the device, more autograd nodes, more FLOPs, a frame that torch.compile compiles anew, tensors that a
step leaves behind.

## Why it matters

Work that creeps into a step stays: no test turns red, and a timing on a shared machine sees 5 % in half of the runs.
Counters see a single operation.

## How it decides

A fresh run of the stage, seed 0, one thread: two steps to settle, then three of which the last is counted under one
dispatch mode. Statistic: `op_count, flops, autograd_nodes, host_syncs, forwards, recompiles` of that step, and `leak`,
the bytes that three steps leave behind. Allowed: what `reports/baselines` holds for this class of machine; at tolerance
0. Less is a note, *improved*; other operations of no larger number are a note, *changed*. The line is the one whose
share grew most.

The file of this class of machine counts; where there is none, one with the same torch build, instruction set and number
of threads, on which alone counters depend. False-alarm rate: 0 in the steps measured, since the numbers are bit-equal
between processes; batches of another shape are inconclusive.

## Example

Bad:

```python
value_BS = self.value_head(hidden_BSD)
metrics["value"] = self.value_head(hidden_BSD).mean()      # a second forward
```

Good:

```python
value_BS = self.value_head(hidden_BSD)
metrics["value"] = value_BS.detach().mean()
```

## How to fix

Take the work out, or accept it: `gradgate baseline update --reason TEXT` records the new counts with the reason.

## Known limits

FLOPs are not time: see GG701 and GG704. Inside code that torch.compile compiled, the eager program is counted.
Without a stored baseline the check does not apply.

## Sources

Faults PF-01 to PF-04 of the fault catalogue; torch.utils.flop_counter.
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.stored import judged
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG702", "counters-grew"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
SOLO = True  # a base is compared with once, for all that ask, and takes time
METRICS = ("op_signature", "op_count", "flops", "autograd_nodes", "host_syncs", "forwards", "recompiles", "leak")


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold the step's counters of work against the stored ones."""
    return judged(subject, stage, context, METRICS, (CODE, NAME))
