"""What a program releases while it trains gets a gradient, and no optimizer has it.

## What it detects

An optimizer that is made of `[p for p in model.parameters() if p.requires_grad]` while the trunk is frozen, and a
`trunk.requires_grad_(True)` at a later update that adds nothing to it.

## Why it matters

From there on the trunk is said to train: it has gradients, which take time and memory, and no update changes it.
Nothing fails, and the loss goes on falling by what the other parts learn.

## How it decides

The program is launched as it is configured. The parameters that are frozen as an optimizer makes its first step are
kept, and looked at again in front of its steps 2, 4, 8 and so on. A finding is one that requires a gradient by then,
has one that is not zero, and is in no group of any optimizer that there is. Statistic: such parameters; allowed: 0.

False-alarm rate: 0 on the bundled program and the documented ones.

## Example

Bad:

```python
optimizer = AdamW(p for p in model.parameters() if p.requires_grad)      # the trunk is frozen here
if step == release_at:
    model.trunk.requires_grad_(True)
```

Good:

```python
if step == release_at:
    model.trunk.requires_grad_(True)
    optimizer.add_param_group({"params": model.trunk.parameters()})
```

## How to fix

Make the optimizer of all parameters, frozen ones as well: without a gradient it leaves them as they are. Or add them as
they are released.

## Known limits

A release that no launch comes to is not seen: let `arguments` of the command bring it into the few updates that it
makes. One between two of the steps that are looked at is seen at the next one. GG211 reads the source for parts that
stay frozen, GG201 looks at one step.

## Sources

PyTorch, `Optimizer.add_param_group`: for fine-tuning, as frozen layers are made trainable while training goes on.
"""

from __future__ import annotations

from itertools import groupby

from gradgate.checks.released import Unstepped
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import first_run
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG687", "released-and-not-stepped"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "make the optimizer of all parameters, or add those that are released to it (`add_param_group`)"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Launch once, and look at what was released."""
    first = first_run(subject, context)
    if isinstance(first, Outcome):
        return first
    if first.launched.end != "ended" or not first.updates:
        return Outcome(inconclusive=f"the program did not come to its end ({first.launched.in_words}): see GG670")
    found = sorted(first.launched.unstepped, key=_of_a_module)
    findings = [_finding(list(each)) for _, each in groupby(found, key=_of_a_module)]
    return Outcome(tuple(findings), {"parameters": len(found)}, {"parameters": 0})


def _of_a_module(found: Unstepped) -> tuple[int, str]:
    return found.update, found.module


def _finding(found: list[Unstepped]) -> Finding:
    most = max(found, key=lambda each: each.norm)
    more = f" and {len(found) - 1} more of {most.module}" if len(found) > 1 else f" of {most.module}"
    told = (
        f"`{most.name}`{more} were frozen as training began, and released by update {most.update + 1}: a gradient of "
    )
    told += f"norm {most.norm:.3g}, and in no optimizer; allowed: none"
    return Finding(CODE, NAME, told, fix=FIX, detail={"parameters": len(found), "norm": most.norm})
