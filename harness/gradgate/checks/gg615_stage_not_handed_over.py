"""A stage does not start from what the stage before it has learnt.

## What it detects

A value head, a reward model or a trunk that one stage trains and the next one builds anew; a file that is looked for
under another name, and skipped where it is missing; weights that are loaded as far as they fit; a load in front of an
initialisation that overwrites it.

## Why it matters

The second stage runs, its loss falls, and what it weighs its tokens with is random. Nothing fails: the first stage was
simply for nothing.

## How it decides

Two steps of the stage before, then `Stage.after.start(before, folder)`. Modules that both runs name, of which the stage
before has changed a tensor, are compared, tensor by tensor, in the dtype of the stage. Statistic: tensors that are not,
bit for bit, those that the stage before left, nor, in a module of its own, those that `after.start` has put into it, as
an average; allowed: 0.

Then once more, one tensor of each such module one row longer: `after.start` must raise, or have that tensor. Statistic:
those that it has left out; allowed: 0.

False-alarm rate: 0 where all that both stages call by one name is to be handed over.

## Example

Bad:

```python
if (folder / "value-head.pt").exists():                  # it was saved as value_head.pt
    model.value_head.load_state_dict(torch.load(folder / "value-head.pt"))
```

Good:

```python
model.value_head.load_state_dict(torch.load(folder / "value_head.pt"))
```

## How to fix

Load what the stage before has written, strictly, and let a file that is missing be an error.

## Known limits

Which of several states of a stage is handed over, the last or the best, is what `after.start` makes of it. A module
under another name in the next stage is not compared.

## Sources

Faults CR-15 and CR-17 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from gradgate.checks.checkpoints import stepped
from gradgate.checks.raised import calling, reports_raises
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import After, Context, Run, Stage, Subject

CODE, NAME = "GG615", "stage-not-handed-over"
NEEDS: tuple[str, ...] = ("after",)
PER_STAGE = True
FIX = "load what the stage before has written, strictly, and let a missing file be an error"
FIX_SHAPE = "refuse a tensor of another shape: load_state_dict(state, strict=True), of the whole state"

State = dict[str, dict[str, Tensor]]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Train the stage before for two steps, hand over, compare; and again with tensors of another shape."""
    after = stage.after
    assert after is not None  # noqa: S101 - NEEDS
    before = _earlier(after, context)
    start = _state(before, before.modules)
    left = _state(stepped(before), before.modules)
    with calling("after.start()"):
        run = after.start(before, _folder(context, "whole"))
    names = [name for name in left if name in run.modules and _differing(start[name], left[name])]
    if not names:
        return Outcome(inconclusive=f"nothing that the stage before trains has a name that {stage.name} has, too")
    findings, lost = [], 0
    for name in names:
        differing = _differing(left[name], _state(run, [name])[name])
        if differing and run.modules[name] is not before.modules[name]:  # averages that `start` has put into `before`
            differing = _differing(_state(before, [name])[name], _state(run, [name])[name])
        lost += len(differing)
        if differing:
            findings.append(_lost(name, differing, len(left[name])))
    misfits = [] if findings else list(_misfits(after, context, names))
    measured = {"tensors_not_handed_over": lost, "misfits_left_out": len(misfits)}
    return Outcome((*findings, *misfits), measured, dict.fromkeys(measured, 0))


def _earlier(after: After, context: Context) -> Run:
    with calling("after.earlier()"):
        return after.earlier(context.seed, device=context.device)


def _misfits(after: After, context: Context, names: Sequence[str]) -> Iterator[Finding]:
    """Of each module one tensor, a row longer than the next stage's."""
    for name in names:
        before = stepped(_earlier(after, context))
        changed, parameter = next(iter(before.modules[name].named_parameters()))
        longer = torch.cat([parameter.detach(), parameter.detach()[:1]]) if parameter.dim() else parameter.detach()
        parameter.data = longer
        run = None
        with suppress(Exception, SystemExit):  # refused, as it should be
            run = after.start(before, _folder(context, f"misfit-{name}"))
        if run is not None and _differing({changed: longer}, _state(run, [name])[name]):
            text = f"`{name}.{changed}` was handed over with shape {list(longer.shape)} and left out without an error"
            yield Finding(code=CODE, name=NAME, message=f"{text}; allowed: no tensor", fix=FIX_SHAPE)


def _folder(context: Context, name: str) -> Path:
    folder = context.folder / name
    folder.mkdir(parents=True)
    return folder


def _state(run: Run, names: Iterable[str]) -> State:
    """Copies of what the modules hold, by module and name."""
    return {
        name: {key: value.detach().clone() for key, value in run.modules[name].state_dict().items()} for name in names
    }


def _differing(left: dict[str, Tensor], right: dict[str, Tensor]) -> list[str]:
    """What of the left is not, in the right's dtype, in the right."""
    return [name for name, tensor in left.items() if name not in right or not _same(tensor, right[name])]


def _same(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.to(right.dtype).cpu(), right.cpu())


def _lost(name: str, differing: Sequence[str], of: int) -> Finding:
    text = f"{len(differing)} of {of} tensors of `{name}` are not those that the stage before left"
    text = f"{text}, `{differing[0]}` first"
    return Finding(code=CODE, name=NAME, message=f"{text}; allowed: 0", fix=FIX)
