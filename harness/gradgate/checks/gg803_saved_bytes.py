"""More bytes are saved for backward than the stored figure.

## What it detects

An activation that is saved twice, a detour through another dtype or a copy before a loss, a mask or index that is kept
as int64, a function that saves its input where its output would do.

## Why it matters

What is saved for backward is most of a training step's memory, and the batch size follows from it. It grows without any
number in the loss.

## How it decides

As GG702: one step of a fresh run, seed 0. Statistic: `saved_bytes`, each storage once and no parameter, and
`saved_calls`, how often autograd saves. Allowed: the stored figures, at tolerance 0; 64 bytes are seen. Less is a note.
False-alarm rate: 0 in the steps measured: the numbers are bit-equal between processes.

## Example

Bad:

```python
log_p_BSHV = (logits_BSHV.double() * 1.0).log_softmax(-1)      # the doubled logits are saved as well
```

Good:

```python
log_p_BSHV = logits_BSHV.log_softmax(-1)
```

## How to fix

Look at the line named: what does its backward need? `gradgate baseline update --reason TEXT` accepts a growth.

## Known limits

Inside non-reentrant checkpoints and under a program's own saved-tensor hooks the innermost hooks see the tensors, and
they are not counted. Without a stored baseline the check does not apply.

## Sources

Fault ME-05 of the fault catalogue; PyTorch, "Hooks for autograd saved tensors".
"""

from __future__ import annotations

from gradgate.checks.raised import reports_raises
from gradgate.checks.stored import judged
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG803", "saved-bytes"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
SOLO = True  # a base is compared with once, for all that ask, and takes time
METRICS = ("saved_bytes", "saved_calls")


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold what the step saves for backward against the stored figures."""
    return judged(subject, stage, context, METRICS, (CODE, NAME))
