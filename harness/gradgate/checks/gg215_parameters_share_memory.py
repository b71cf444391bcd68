"""Two parameters lie over the same memory.

## What it detects

Weights that are tied by `.data`, by `set_` or through numpy; a reference, a target or an average that was built from
the tensors of the model under training and not from copies of them.

## Why it matters

Autograd knows two parameters: each use fills a gradient of its own, and the optimizer moves one number twice, with
two states. A frozen part over the memory of one that trains is not frozen at all, and no gradient tells.

## How it decides

Statistic: pairs of different parameters of `Run.modules` and the optimizers, at least one of them trained, whose
numbers overlap in memory; allowed: 0. One parameter under two names is tied as it should be. False-alarm rate: 0.

## Example

Bad:

```python
heads.unembed.weight.data = trunk.embedding.weight.data
```

Good:

```python
heads.unembed.weight = trunk.embedding.weight
```

## How to fix

Assign the parameter itself where it is to be shared, and copy it (`copy.deepcopy`, `.clone()`) where it is not.

## Known limits

Modules that the run does not name are not looked at. Parameters that are sharded over processes are left out.

## Sources

A gradient fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import nn

from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.snapshot import named_parameters
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG215", "parameters-share-memory"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold the memory of every two parameters against each other."""
    with calling("start()"):
        run: Run = stage.start(context.seed, device=context.device)
    named = named_parameters(run)
    found = [(named[one], named[other], one, other) for one, other in _overlapping(list(named))]
    findings = tuple(_finding(*pair) for pair in found)
    return Outcome(findings, {"pairs": len(found), "parameters": len(named)}, {"pairs": 0})


def _overlapping(parameters: list[nn.Parameter]) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Pairs of which one is trained, by the bytes that they lie in."""
    by_storage: dict[int, list[nn.Parameter]] = {}
    for parameter in parameters:
        if type(parameter.data) is torch.Tensor and parameter.numel() and parameter.device.type != "meta":
            by_storage.setdefault(parameter.untyped_storage().data_ptr(), []).append(parameter)
    for several in by_storage.values():
        for one, other in combinations(several, 2):
            (start, end), (first, last) = _bytes_of(one), _bytes_of(other)
            if start < last and first < end and (one.requires_grad or other.requires_grad):
                yield one, other


def _bytes_of(parameter: nn.Parameter) -> tuple[int, int]:
    span = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True)) + 1
    start = parameter.data_ptr()
    return start, start + span * parameter.element_size()


def _finding(one: str, other: str, first: nn.Parameter, second: nn.Parameter) -> Finding:
    if first.requires_grad and second.requires_grad:
        told = f"`{one}` and `{other}` are two parameters over one memory: two gradients, and two steps on one number"
    else:
        frozen, trained = (other, one) if first.requires_grad else (one, other)
        told = f"`{frozen}` is frozen, and lies over the memory of `{trained}`, which trains: it moves along"
    fix = "assign the parameter itself where it is to be shared, and a copy where it is not"
    return Finding(CODE, NAME, f"{told}; allowed: none", fix=fix, detail={"one": one, "other": other})
